//! What a client wants to reach: its name or address, and, once resolved, whether that address is anyone's to reach.
//!
//! Resolved and checked in one place, so that nothing is ever looked up twice: the second answer could be another.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use hyper::Uri;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// The system's resolver cannot be interrupted and holds a thread: so many at once in the whole engine.
static LOOKUPS: Semaphore = Semaphore::const_new(16);
const RESOLVED_WITHIN: Duration = Duration::from_secs(20);
const CONNECTED_WITHIN: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 6;

/// A host and a port, as a client said them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// In lower case, an IPv6 address without its brackets, a name without a final dot.
    pub host: String,
    pub port: u16,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Unreached {
    /// It must not be reached.
    Forbidden(String),
    /// It could not be reached.
    Failed(String),
}

impl Target {
    /// The authority of a URL; `port` is meant where it says none.
    pub fn of(uri: &Uri, port: Option<u16>) -> Result<Self, &'static str> {
        let authority = uri.authority().ok_or("the request names no host")?;
        let text = authority.as_str();
        // A user before the host has no use here; a port that is none of ours to guess would be dropped in silence.
        let port = match authority.port_u16() {
            _ if text.contains('@') => return Err("a URL with a user in it is not passed on"),
            Some(0) => return Err("port 0 cannot be reached"),
            Some(port) => port,
            None if text.rsplit(']').next().is_some_and(|end| end.contains(':')) => return Err("that is not a port"),
            None => port.ok_or("the request names no port")?,
        };
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        match host.is_empty() || host.len() > 253 {
            true => Err("the request names no host"),
            false => Ok(Self { host, port }),
        }
    }

    /// Whether it is an address and no name.
    pub fn is_address(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok()
    }

    /// Resolves, checks and connects. A `literal` is an address that a person wrote down, and may be any.
    pub async fn connect(&self, literal: bool) -> Result<TcpStream, Unreached> {
        let found = self.resolve().await.map_err(Unreached::Failed)?;
        let Some(first) = found.first().map(SocketAddr::ip) else {
            return Err(Unreached::Failed("the name has no address".to_owned()));
        };
        let allowed: Vec<_> = found.into_iter().filter(|address| literal || is_public(address.ip())).collect();
        if allowed.is_empty() {
            return Err(Unreached::Forbidden(format!("its address {first} is not a public one")));
        }
        let mut last = String::new();
        for address in allowed.into_iter().take(MOST_ADDRESSES) {
            let stream = match timeout(CONNECTED_WITHIN, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    last = format!("{address}: {error}");
                    continue;
                }
                Err(_) => {
                    last = format!("{address}: no answer");
                    continue;
                }
            };
            // An address of this machine, if a public one: its services are not the command's to reach.
            if !literal && stream.local_addr().is_ok_and(|own| own.ip() == address.ip()) {
                return Err(Unreached::Forbidden(format!("its address {} is this machine's own", address.ip())));
            }
            let _ = stream.set_nodelay(true);
            return Ok(stream);
        }
        Err(Unreached::Failed(last))
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, String> {
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, self.port)]);
        }
        let cannot = |why: &dyn fmt::Display| format!("the name cannot be resolved: {why}");
        let (host, port) = (self.host.clone(), self.port);
        let look = async {
            let turn = LOOKUPS.acquire().await.map_err(|error| cannot(&error))?;
            let found = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                (host.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>)
            });
            found.await.map_err(|error| cannot(&error))?.map_err(|error| cannot(&error))
        };
        timeout(RESOLVED_WITHIN, look).await.unwrap_or_else(|_| Err(cannot(&"no answer in time")))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host.escape_default(), self.port),
            false => write!(f, "{}:{}", self.host.escape_default(), self.port),
        }
    }
}

/// Whether the address belongs to the public internet: not to this machine, its networks, or a cloud's inside.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_4(address),
        IpAddr::V6(address) => is_public_6(address),
    }
}

fn is_public_4(address: Ipv4Addr) -> bool {
    /// Answers the virtual machines of a large cloud with their secrets, and is in no private block.
    const WIRE_SERVER: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
    let closed = match address.octets() {
        [0 | 10 | 127 | 224.., ..] => true,
        [100, second, ..] => second & 0xc0 == 64,
        [169, 254, ..] | [192, 168, ..] => true,
        [172, second, ..] => second & 0xf0 == 16,
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => true,
        _ => address == WIRE_SERVER,
    };
    !closed
}

fn is_public_6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // IPv4 behind a network's translator.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => is_public_4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))),
        // Tunnels, documentation, benchmarks.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        [0x2002, ..] => false,
        [0x3fff, second, ..] if second < 0x1000 => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_public_internet_are_public() {
        let public = "1.1.1.1 8.8.8.8 100.63.0.1 100.128.0.1 172.15.0.1 172.32.0.1 192.0.1.1 198.17.0.1 223.255.255.1 \
                      169.253.1.1 2606:4700::1 2a00::1 2001:4860:4860::8888 64:ff9b::808:808";
        for address in public.split_whitespace() {
            assert!(is_public(address.parse().expect(address)), "{address}");
        }
        let closed = "0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.100.100.200 127.0.0.1 127.9.9.9 169.254.169.254 172.16.0.1 \
                      172.31.255.255 192.0.0.192 192.168.1.1 198.18.0.1 203.0.113.1 224.0.0.1 239.1.1.1 240.0.0.1 \
                      255.255.255.255 168.63.129.16 :: ::1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::127.0.0.1 64:ff9b::7f00:1 \
                      64:ff9b::a9fe:a9fe 64:ff9b:1::1 100::1 2001::1 2001:db8::1 2002:7f00:1::1 3fff::1 fc00::1 \
                      fd00:ec2::254 fe80::1 fec0::1 ff02::1";
        for address in closed.split_whitespace() {
            assert!(!is_public(address.parse().expect(address)), "{address}");
        }
    }

    #[test]
    fn targets_are_read_strictly() {
        let read = |text: &str, port| {
            let uri: Uri = text.parse().map_err(|_| "no URL")?;
            Target::of(&uri, port).map(|target| target.to_string())
        };
        for (text, port, wanted) in [
            ("Example.ORG:443", None, "example.org:443"),
            ("http://example.org./x?y", Some(80), "example.org:80"),
            ("http://[::1]:8080/", Some(80), "[::1]:8080"),
            ("http://[::1]/", Some(80), "[::1]:80"),
        ] {
            assert_eq!(read(text, port).as_deref(), Ok(wanted), "{text}");
        }
        for (text, port) in [
            ("example.org", None),
            ("example.org:0", None),
            ("example.org:99999", None),
            ("http://example.org:/", Some(80)),
            ("user@example.org:443", None),
            ("http://a@b@example.org/", Some(80)),
            ("http://.:80/", Some(80)),
            ("/path", Some(80)),
            ("*", Some(80)),
        ] {
            assert!(read(text, port).is_err(), "{text}: {:?}", read(text, port));
        }
    }
}
