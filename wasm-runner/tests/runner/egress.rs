//! Where a component may connect to, seen from its own side and from that of the server.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use identity::tls::CertificateFiles;
use margo::ParameterValue;

use runtime::{CERTIFICATE, Collector, Condition, Runtime};
use runtime_wasm::{
    Egress as NodeEgress,
    spec::{SPEC, Spec},
};
use serde_json::json;
use tempfile::TempDir;
use testkit::Certificates;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener as TokioListener,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    component::command,
    own_address,
    supervised::{Node, call, id, observed},
};

/// Runs a command to its end, or to its first failure; returns whether it succeeded.
async fn succeeds(component: &[u8], egress: &[String]) -> bool {
    succeeds_with(Collector::default(), component, egress).await
}

/// The same on a node with this collector of telemetry.
async fn succeeds_with(collector: Collector, component: &[u8], egress: &[String]) -> bool {
    let mut node = Node::new().await;
    node.collector = collector;
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

enum Scheme {
    Http,
    Https,
}

/// A command that sends a request there.
fn asks(to: &str, scheme: Scheme) -> Vec<u8> {
    let scheme = match scheme {
        Scheme::Http => "const 0",
        Scheme::Https => "const 1",
    };
    command("asks", &[("NAME", to), ("LENGTH", &to.len().to_string()), ("const SCHEME", scheme)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_to_what_the_package_names_and_to_nothing_else() {
    let (server, address) = server();
    let to = address.to_string();
    let asks = asks(&to, Scheme::Http);
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

/// A collector that speaks HTTPS with a certificate of an authority that no system trusts.
struct SecretCollector {
    address: SocketAddr,
    folder: TempDir,
    /// How many requests came, in words that were understood.
    requests: Arc<AtomicUsize>,
}

impl SecretCollector {
    async fn start() -> Self {
        let (folder, certificates) = (TempDir::new().unwrap(), Certificates::default());
        let (server, address) = server();
        server.set_nonblocking(true).unwrap();
        let file = folder.path().join("server.pem");
        certificates.issuer().keep_leaf(&file, &[address.ip().to_string()]).unwrap();
        let files = CertificateFiles { certificate: file.clone(), key: file };
        let (acceptor, listener) =
            (TlsAcceptor::from(files.server().unwrap()), TokioListener::from_std(server).unwrap());
        fs::create_dir(folder.path().join("collector")).unwrap();
        fs::write(folder.path().join("collector").join(CERTIFICATE), certificates.root()).unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = requests.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // A client that believes nobody here ends the handshake.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = [0; 1024];
                let length = stream.read(&mut request).await.unwrap_or(0);
                if request[..length].starts_with(b"GET / HTTP/1.1\r\n") {
                    counted.fetch_add(1, Ordering::Relaxed);
                    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                }
            }
        });
        Self { address, folder, requests }
    }

    /// As a node offers it, with its certificate or without.
    fn offered(&self, with_certificate: bool) -> Collector {
        let certificate = with_certificate.then(|| self.folder.path().join("collector"));
        Collector { http: Some(format!("https://{}/otlp", self.address)), grpc: None, certificate }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_33_a_component_reaches_the_collector_and_knows_it_by_its_certificate() {
    let collector = SecretCollector::start().await;
    let to = collector.address.to_string();
    let asks = asks(&to, Scheme::Https);
    // Named by the package, or offered, but known by nobody's word.
    assert!(!succeeds(&asks, std::slice::from_ref(&to)).await);
    assert!(!succeeds_with(collector.offered(false), &asks, &[]).await);
    assert_eq!(collector.requests.load(Ordering::Relaxed), 0);
    // The package need not name what the node offers.
    assert!(succeeds_with(collector.offered(true), &asks, &[]).await);
    assert_eq!(collector.requests.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn dev_33_a_component_is_told_of_the_collector_where_it_may_connect() {
    let mut node = Node::new().await;
    let (http, certificate) = ("https://192.0.2.7:4318".to_owned(), node.folder.path().join("collector"));
    fs::create_dir(&certificate).unwrap();
    node.collector = Collector { http: Some(http.clone()), grpc: None, certificate: Some(certificate) };
    let spec = |node: &Node| -> Spec {
        serde_json::from_slice(&fs::read(node.workload_folder().join(SPEC)).unwrap()).unwrap()
    };
    node.agent().await.apply(node.workload("first"), call()).await.unwrap();
    let told = spec(&node);
    assert_eq!(told.environment["HTTP_OTEL_EXPORTER_OTLP_ENDPOINT"], http);
    assert_eq!(told.environment["OTEL_EXPORTER_OTLP_CERTIFICATE"], "/etc/edgewright/collector.pem");
    assert_eq!((told.environment["GREETING"].as_str(), told.egress.len()), ("first", 0));
    node.answers("first").await;

    // What the application sets counts more.
    let mut second = node.workload("second");
    let name = "HTTP_OTEL_EXPORTER_OTLP_ENDPOINT".to_owned();
    second.values.insert(name.clone(), ParameterValue::Text("http://own.example".to_owned()));
    node.agent().await.apply(second, call()).await.unwrap();
    assert_eq!(spec(&node).environment[&name], "http://own.example");

    node.egress = NodeEgress::None;
    node.agent().await.apply(node.workload("third"), call()).await.unwrap();
    let told = spec(&node);
    assert_eq!((told.environment.len(), told.collector), (1, None));
}
