//! Where a component connects to: to what its package names and to the node's collector, and nowhere else, by `wasi:sockets`
//! (TCP) and by `wasi:http/outgoing-handler`.
//!
//! A name that the package gives stands for the addresses that DNS gives for it, with the exception of addresses of this host
//! itself and of its link: whoever answers for a name elsewhere must not choose a server of this node. A package that means
//! such an address gives the address. Names that the package does not give are not even resolved, because a
//! question to DNS tells its servers something.

use std::{
    collections::BTreeMap,
    future::ready,
    io,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::uri::Scheme;
use http_body_util::BodyExt;
use hyper::{Request, Response, client::conn::http1};
use hyper_util::rt::TokioIo;
use margo::{Destination, Host};
use runtime::CERTIFICATE;
use runtime_wasm::spec::CollectorSpec;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_util::{either::Either, task::AbortOnDropHandle};
use wasmtime::component::{HasData, Resource};
use wasmtime_wasi::{
    WasiCtxBuilder,
    p2::{
        DynPollable, Network, SocketError,
        bindings::sockets::{
            ip_name_lookup::{self, HostResolveAddressStream, ResolveAddressStream},
            network::{self, ErrorCode, IpAddress},
        },
    },
    sockets::{SocketAddrUse, WasiSocketsCtxView},
};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::tls::{Authorities, Believed};

/// How long the addresses of a name are believed.
const FRESH: Duration = Duration::from_secs(60);
/// Of one name; more than a server has.
const MAX_ADDRESSES: usize = 64;
/// For a connection and for the first byte of an answer, where the component sets no limit of its own.
const PATIENCE: Duration = Duration::from_secs(60);

/// The destinations of a component. Cheap to clone.
#[derive(Clone)]
pub struct Egress(Arc<Inner>);

struct Inner {
    /// Those of the package and of the collector.
    destinations: Vec<Destination>,
    /// What everybody is known by who is reached over HTTPS.
    system: Believed,
    /// The destinations that are known by a certificate of their own.
    collector: Option<(Vec<Destination>, Believed)>,
    /// What DNS said of the names, and when.
    resolved: Mutex<BTreeMap<String, (Instant, Vec<IpAddr>)>>,
}

impl Egress {
    /// Allows these, the collector, and nothing else.
    pub fn new(mut destinations: Vec<Destination>, collector: Option<CollectorSpec>) -> Self {
        destinations.extend(collector.iter().flat_map(|collector| collector.destinations.clone()));
        let collector = collector.and_then(|collector| {
            let file = collector.certificate?.join(CERTIFICATE);
            Some((collector.destinations, Believed::new(Authorities::File(file))))
        });
        let system = Believed::new(Authorities::System);
        Self(Arc::new(Inner { destinations, system, collector, resolved: Mutex::default() }))
    }

    /// Whom to believe who claims to be this host.
    fn believed(&self, host: &Host, port: u16) -> &Believed {
        let is_there = |to: &Destination| to.host == *host && to.port.get() == port;
        let own = self.0.collector.as_ref().filter(|(destinations, _)| destinations.iter().any(is_there));
        own.map_or(&self.0.system, |(_, believed)| believed)
    }

    /// Allows an instance what the component may do with sockets: to connect. It listens nowhere and sends no UDP.
    pub fn allow(&self, wasi: &mut WasiCtxBuilder) {
        wasi.allow_udp(false).allow_tcp(!self.0.destinations.is_empty());
        wasi.allow_ip_name_lookup(!self.0.destinations.is_empty());
        let egress = self.clone();
        wasi.socket_addr_check(move |address, purpose| {
            let egress = egress.clone();
            // A task of its own, because the future has to be `Sync`.
            let connects = async move { egress.may_connect(address).await };
            match purpose {
                // Before each connection the system binds the socket to an address and a port of its own choice.
                SocketAddrUse::TcpBind => Box::pin(ready(address.ip().is_unspecified() && address.port() == 0)),
                SocketAddrUse::TcpConnect => {
                    let connects = AbortOnDropHandle::new(tokio::spawn(connects));
                    Box::pin(async move { connects.await.unwrap_or(false) })
                }
                _ => Box::pin(ready(false)),
            }
        });
    }

    fn names(&self) -> impl Iterator<Item = (&str, NonZeroU16)> {
        self.0.destinations.iter().filter_map(|to| match &to.host {
            Host::Name(name) => Some((name.as_str(), to.port)),
            Host::Address(_) => None,
        })
    }

    /// Whether the package names this host and port.
    fn is_named(&self, host: &Host, port: u16) -> bool {
        self.0.destinations.iter().any(|to| to.host == *host && to.port.get() == port)
    }

    async fn may_connect(&self, address: SocketAddr) -> bool {
        let (ip, port) = (address.ip().to_canonical(), address.port());
        if self.is_named(&Host::Address(ip), port) {
            return true;
        }
        for (name, _) in self.names().filter(|(_, of_name)| of_name.get() == port) {
            if self.resolve(name).await.is_ok_and(|addresses| addresses.contains(&ip)) {
                return true;
            }
        }
        false
    }

    /// Returns the addresses of a name that are not this host's own.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        if let Some((at, addresses)) = self.resolved().get(name)
            && at.elapsed() < FRESH
        {
            return Ok(addresses.clone());
        }
        let found = lookup_host((name, 0)).await?.map(|address| address.ip().to_canonical());
        let addresses: Vec<_> = found.filter(|address| is_elsewhere(*address)).take(MAX_ADDRESSES).collect();
        // Only names of the package come here, so there are few.
        self.resolved().insert(name.to_owned(), (Instant::now(), addresses.clone()));
        Ok(addresses)
    }

    fn resolved(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, (Instant, Vec<IpAddr>)>> {
        self.0.resolved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self, host: &Host, port: u16) -> Result<TcpStream, Error> {
        if !self.is_named(host, port) {
            return Err(Error::HttpRequestDenied);
        }
        let addresses = match host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => self.resolve(name).await.map_err(Error::Connect)?,
        };
        let mut last = Error::DestinationIpProhibited;
        for address in addresses {
            match TcpStream::connect((address, port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Error::Connect(error),
            }
        }
        Err(last)
    }
}

/// Whether an address is neither this host's own nor one of its link, of a group or of nobody.
fn is_elsewhere(address: IpAddr) -> bool {
    let on_link = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !on_link && !address.is_loopback() && !address.is_unspecified() && !address.is_multicast()
}

/// The interface `wasi:sockets/ip-name-lookup` for names of the package alone.
pub struct Lookups;

impl HasData for Lookups {
    type Data<'a> = Names<'a>;
}

/// What resolves the names of one instance.
pub struct Names<'a> {
    pub egress: Egress,
    pub sockets: WasiSocketsCtxView<'a>,
}

impl network::Host for Names<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        network::Host::convert_error_code(&mut self.sockets, error)
    }

    fn network_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        network::Host::network_error_code(&mut self.sockets, error)
    }
}

impl network::HostNetwork for Names<'_> {
    fn drop(&mut self, network: Resource<Network>) -> wasmtime::Result<()> {
        network::HostNetwork::drop(&mut self.sockets, network)
    }
}

impl ip_name_lookup::Host for Names<'_> {
    fn resolve_addresses(
        &mut self,
        network: Resource<Network>,
        name: String,
    ) -> Result<Resource<ResolveAddressStream>, SocketError> {
        let host = Host::parse(name.trim_end_matches('.'));
        let Some(host) = host.filter(|host| self.egress.0.destinations.iter().any(|to| to.host == *host)) else {
            return Err(ErrorCode::AccessDenied.into());
        };
        if let Host::Name(name) = &host {
            // What the component connects to then is among these, also where DNS says something else each time.
            let (egress, name) = (self.egress.clone(), name.clone());
            tokio::spawn(async move { egress.resolve(&name).await });
        }
        ip_name_lookup::Host::resolve_addresses(&mut self.sockets, network, name)
    }
}

impl HostResolveAddressStream for Names<'_> {
    fn resolve_next_address(
        &mut self,
        stream: Resource<ResolveAddressStream>,
    ) -> Result<Option<IpAddress>, SocketError> {
        HostResolveAddressStream::resolve_next_address(&mut self.sockets, stream)
    }

    fn subscribe(&mut self, stream: Resource<ResolveAddressStream>) -> wasmtime::Result<Resource<DynPollable>> {
        HostResolveAddressStream::subscribe(&mut self.sockets, stream)
    }

    fn drop(&mut self, stream: Resource<ResolveAddressStream>) -> wasmtime::Result<()> {
        HostResolveAddressStream::drop(&mut self.sockets, stream)
    }
}

type Transmitted = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = wasmtime_wasi_http::Result<(Response<WasiBody>, Transmitted)>;

impl WasiHttpHooks for Egress {
    fn is_supported_scheme(&mut self, scheme: &Scheme) -> bool {
        *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS
    }

    fn default_scheme(&mut self) -> Option<Scheme> {
        Some(Scheme::HTTP)
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Transmitted,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let egress = self.clone();
        Box::new(async move { egress.send(request, options).await })
    }
}

impl Egress {
    async fn send(&self, mut request: Request<WasiBody>, options: Option<RequestOptions>) -> Sent {
        let authority = request.uri().authority().ok_or(Error::HttpRequestUriInvalid)?;
        let host = Host::parse(authority.host()).ok_or(Error::HttpRequestDenied)?;
        let is_https = request.uri().scheme() == Some(&Scheme::HTTPS);
        let port = authority.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let limit = |of: fn(&RequestOptions) -> Option<Duration>| options.as_ref().and_then(of).unwrap_or(PATIENCE);
        let connected = async {
            let stream = self.connect(&host, port).await?;
            Ok::<_, Error>(if is_https {
                Either::Right(self.believed(&host, port).connect(&host, stream).await?)
            } else {
                Either::Left(stream)
            })
        };
        let connected = timeout(limit(|options| options.connect_timeout), connected).await;
        let stream = connected.map_err(|_elapsed| Error::ConnectionTimeout)??;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        // Scheme and host stand in the request line of a proxy only.
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().map_err(|_| Error::HttpRequestUriInvalid)?;
        let answered = timeout(limit(|options| options.first_byte_timeout), sender.send_request(request)).await;
        let response = answered.map_err(|_elapsed| Error::ConnectionReadTimeout)??;
        let response = response.map(|body| body.map_err(Error::from).boxed_unsync());
        let transmitted = async move {
            match connection.await {
                Ok(ended) => ended.map_err(Error::from),
                Err(_panicked) => Err(Error::HttpResponseIncomplete),
            }
        };
        Ok((response, Box::new(transmitted)))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;

    use super::*;

    fn egress(destinations: &[&str]) -> Egress {
        Egress::new(destinations.iter().map(|to| to.parse().unwrap()).collect(), None)
    }

    async fn send(egress: &Egress, uri: &str) -> Sent {
        let body = Empty::new().map_err(|never: std::convert::Infallible| match never {}).boxed_unsync();
        egress.send(Request::builder().uri(uri).body(body).unwrap(), None).await
    }

    #[tokio::test]
    async fn a_component_reaches_what_its_package_names_and_nothing_else() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for (destinations, allowed) in [
            (vec![], false),
            (vec!["127.0.0.1:1".to_owned()], false),
            (vec![format!("127.0.0.2:{}", address.port())], false),
            // The name of this host is no way to its own servers.
            (vec![format!("localhost:{}", address.port())], false),
            (vec!["127.0.0.1:1".to_owned(), address.to_string()], true),
        ] {
            let destinations: Vec<_> = destinations.iter().map(String::as_str).collect();
            let egress = egress(&destinations);
            assert_eq!(egress.may_connect(address).await, allowed, "{destinations:?}");
            let mapped = format!("[::ffff:127.0.0.1]:{}", address.port()).parse().unwrap();
            assert_eq!(egress.may_connect(mapped).await, allowed, "{destinations:?}, as IPv6");
            let connected = egress.connect(&Host::Address(address.ip()), address.port()).await;
            assert_eq!(connected.is_ok(), allowed, "{destinations:?}");
        }
    }

    #[tokio::test]
    async fn a_request_to_another_host_or_port_is_denied() {
        let egress = egress(&["localhost:80", "192.0.2.7:8080"]);
        for uri in ["http://127.0.0.1/", "http://localhost:81/", "http://192.0.2.7/", "http://other.example/"] {
            assert!(matches!(send(&egress, uri).await.err(), Some(Error::HttpRequestDenied)), "{uri}");
        }
        // Named, and yet this host itself.
        assert!(matches!(send(&egress, "http://localhost/").await.err(), Some(Error::DestinationIpProhibited)));
    }

    #[test]
    fn addresses_of_this_host_and_its_link_are_not_elsewhere() {
        for address in [
            "127.0.0.1",
            "0.0.0.0",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!is_elsewhere(address.parse().unwrap()), "{address}");
        }
        for address in ["192.0.2.7", "10.0.0.1", "2001:db8::7"] {
            assert!(is_elsewhere(address.parse().unwrap()), "{address}");
        }
    }
}
