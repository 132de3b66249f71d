//! What clients see of an update, of a restart and of a runner that is killed: nothing.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use runtime::Runtime;
use serde_json::json;

use crate::{
    component::guest,
    supervised::{Node, call, ended, id, kill, running},
};

/// Clients that connect at the same time.
const CLIENTS: usize = 3;

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

fn ask(mut stream: TcpStream) -> io::Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn address(node: &Node) -> SocketAddr {
    node.url().trim_start_matches("http://").trim_end_matches('/').parse().unwrap()
}

/// Clients that connect without a pause, each time anew, until they are asked what they saw.
struct Clients {
    enough: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(usize, Vec<String>)>>,
}

impl Clients {
    fn start(address: SocketAddr) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let enough = enough.clone();
            thread::spawn(move || {
                let (mut answered, mut failed) = (0, Vec::new());
                while !enough.load(Ordering::Relaxed) {
                    match connect(address).and_then(ask) {
                        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => answered += 1,
                        other => failed.push(format!("after {answered} answers: {other:?}")),
                    }
                }
                (answered, failed)
            })
        };
        let threads = (0..CLIENTS).map(client).collect();
        Self { enough, threads }
    }

    /// Returns the number of answers, and what was none.
    fn stop(self) -> (usize, Vec<String>) {
        self.enough.store(true, Ordering::Relaxed);
        let seen = self.threads.into_iter().map(|thread| thread.join().unwrap());
        seen.fold((0, Vec::new()), |(answered, failed), (more, wrong)| (answered + more, [failed, wrong].concat()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_connect_without_a_pause_see_no_update_and_no_restart() {
    let node = Node::new().await;
    let mut agent = node.agent().await;
    agent.apply(node.workload("0"), call()).await.unwrap();
    running(&agent).await;
    let clients = Clients::start(address(&node));
    for revision in 1..=30 {
        match revision % 5 {
            // The next life of the agent learns the port from the runner.
            0 => agent = node.agent().await,
            1 => agent.restart(id(), call()).await.unwrap(),
            2 => agent.prepare(node.workload(&revision.to_string()), call()).await.unwrap(),
            _ => {}
        }
        agent.apply(node.workload(&revision.to_string()), call()).await.unwrap();
        node.answers(&revision.to_string()).await;
    }
    let (answered, failed) = clients.stop();
    assert!(failed.is_empty(), "{answered} were answered, and not: {failed:#?}");
    assert!(answered > 100, "only {answered} requests in 30 updates");
    assert_eq!(node.starts().len(), 1 + 30 + 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_connects_after_a_runner_was_killed_waits_for_the_next_one() {
    for agent_is_new in [false, true] {
        let node = Node::new().await;
        let mut agent = node.agent().await;
        agent.apply(node.workload("first"), call()).await.unwrap();
        running(&agent).await;
        if agent_is_new {
            agent = node.agent().await;
            running(&agent).await;
        }
        let [(first, _)] = node.starts()[..] else { panic!("{:?}", node.starts()) };
        kill(first);
        ended(first).await;
        let address = address(&node);
        let answer = tokio::task::spawn_blocking(move || connect(address).and_then(ask)).await.unwrap();
        assert!(answer.as_ref().is_ok_and(|answer| answer.contains("first\r\n")), "{answer:?}");
        assert_eq!(node.starts().len(), 2);
        drop(agent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connected_before_an_update_and_asks_after_it_is_answered() {
    let node = Node::new().await;
    let agent = node.agent().await;
    agent.apply(node.workload("first"), call()).await.unwrap();
    running(&agent).await;
    let early = connect(address(&node)).unwrap();
    // Connections are accepted in their order, so this one is by now.
    node.answers("first").await;
    agent.apply(node.workload("second"), call()).await.unwrap();
    let answer = ask(early).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("first\r\n"), "{answer}");
    node.answers("second").await;
}

#[tokio::test]
async fn a_workload_that_dies_again_and_again_refuses_instead_of_letting_clients_wait() {
    let node = Node::new().await;
    let agent = node.agent().await;
    agent.apply(node.workload("first"), call()).await.unwrap();
    running(&agent).await;
    for starts in [1, 2] {
        let all = testkit::wait_for("the next start", async || match node.starts() {
            all if all.len() == starts => Ok(all),
            all => Err(all),
        })
        .await;
        // It took the port before it is killed.
        node.answers("first").await;
        kill(all[starts - 1].0);
        ended(all[starts - 1].0).await;
    }
    // The second pause has begun.
    testkit::wait_for("the port to be closed", async || match connect(address(&node)) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[tokio::test]
async fn another_port_and_a_removal_close_the_one_of_before() {
    let node = Node::new().await;
    let agent = node.agent().await;
    let refused = |address: SocketAddr| connect(address).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
    agent.apply(node.workload("first"), call()).await.unwrap();
    running(&agent).await;
    let (first, second) = (address(&node), SocketAddr::new(address(&node).ip(), 8081));

    let hello = node.workload("second");
    let moved = runtime::Workload { settings: json!({ "http": { "port": 8081 } }), ..hello };
    agent.apply(moved, call()).await.unwrap();
    running(&agent).await;
    ended(node.starts()[0].0).await;
    assert!(refused(first) && connect(second).is_ok());

    agent.remove(id(), call()).await.unwrap();
    assert!(refused(second));
}

#[tokio::test]
async fn a_client_that_only_connects_holds_up_no_removal() {
    let node = Node::with(guest("trap")).await;
    let agent = node.agent().await;
    agent.apply(node.workload("first"), call()).await.unwrap();
    running(&agent).await;
    let idle = connect(address(&node)).unwrap();
    assert_eq!(crate::get(&node.url()).await.unwrap().0, 500);
    let process = node.starts()[0].0;
    agent.remove(id(), call()).await.unwrap();
    assert!(!process.is_alive());
    drop(idle);
}
