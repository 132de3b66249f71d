//! Where a component may connect to, seen from its own side and from that of the server.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener},
};

use runtime::{Condition, Runtime};
use serde_json::json;

use crate::{
    component::command,
    own_address,
    supervised::{Node, call, id, observed},
};

/// Runs a command to its end, or to its first failure; returns whether it succeeded.
async fn succeeds(component: &[u8], egress: &[String]) -> bool {
    let node = Node::new().await;
    let agent = node.agent().await;
    let workload = node.made_of("first", component, json!({ "command": {}, "egress": egress })).await;
    agent.apply(workload, call()).await.unwrap();
    let ended = |condition: &Condition| matches!(condition, Condition::Completed | Condition::Failed { .. });
    let found = observed(&agent, "the command to end", ended).await;
    if let Condition::Failed { message, .. } = &found.condition {
        assert!(message.contains("ended with a failure"), "{message}");
    }
    agent.remove(id(), call()).await.unwrap();
    found.condition == Condition::Completed
}

/// A server on an address of its own, of which only the last number differs from 127.0.0.
fn server() -> (TcpListener, SocketAddr) {
    let IpAddr::V4(own) = IpAddr::from(own_address()) else { unreachable!() };
    let server = TcpListener::bind((std::net::Ipv4Addr::new(127, 0, 0, own.octets()[3].max(2)), 0)).unwrap();
    let address = server.local_addr().unwrap();
    (server, address)
}

fn was_reached(server: &TcpListener) -> bool {
    server.set_nonblocking(true).unwrap();
    server.accept().is_ok()
}

#[tokio::test]
async fn a_socket_connects_to_what_the_package_names_and_to_nothing_else() {
    let (server, address) = server();
    let SocketAddr::V4(v4) = address else { unreachable!() };
    let (last, port) = (v4.ip().octets()[3].to_string(), address.port().to_string());
    let connects = command("connects", &[("PORT", &port), ("const A)", &format!("const {last})"))]);
    let other_port = SocketAddr::new(address.ip(), address.port().wrapping_add(1).max(1));
    for egress in [vec![], vec![other_port.to_string()], vec![format!("localhost:{port}")]] {
        assert!(!succeeds(&connects, &egress).await && !was_reached(&server), "{egress:?}");
    }
    assert!(succeeds(&connects, &[address.to_string()]).await && was_reached(&server));
}

#[tokio::test]
async fn only_names_of_the_package_are_resolved() {
    let name = "localhost";
    let resolves = command("resolves", &[("NAME", name), ("LENGTH", &name.len().to_string())]);
    for egress in [vec![], vec!["other.example:80".to_owned()], vec!["127.0.0.1:80".to_owned()]] {
        assert!(!succeeds(&resolves, &egress).await, "{egress:?}");
    }
    assert!(succeeds(&resolves, &["localhost:80".to_owned()]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_to_what_the_package_names_and_to_nothing_else() {
    let (server, address) = server();
    let to = address.to_string();
    let asks = command("asks", &[("NAME", &to), ("LENGTH", &to.len().to_string())]);
    for egress in [vec![], vec!["127.0.0.1:1".to_owned()], vec![format!("localhost:{}", address.port())]] {
        assert!(!succeeds(&asks, &egress).await && !was_reached(&server), "{egress:?}");
    }
    server.set_nonblocking(false).unwrap();
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        let mut request = [0; 1024];
        let length = stream.read(&mut request).unwrap();
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    assert!(succeeds(&asks, std::slice::from_ref(&to)).await);
    let request = asked.join().unwrap().to_lowercase();
    assert!(request.starts_with("get / http/1.1\r\n") && request.contains(&format!("host: {to}")), "{request}");
}
