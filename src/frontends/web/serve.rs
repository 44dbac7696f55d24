//! Connections: how many, how long they may take to say what they want, and how they end with the daemon. It hands requests
//! on with the address they came from and does not look at them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where accepting fails for want of something (open files), before it is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// The largest head of a request, and the most that waits to be sent, in bytes.
const BUFFER_MAX: usize = 64 * 1024;
/// What is said to whoever is one too many.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 5\r\ncontent-length: 0\r\n\r\n";

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// At once, in all: a part of the files that a process may have open by default.
    pub all: usize,
    /// At once, of one address. A machine's own programs and proxies come from one, and are not counted.
    pub each: usize,
    /// How long a request's head may take, and a connection without requests may stay.
    pub head: Duration,
    /// How long answers under way have when the daemon stops.
    pub farewell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { all: 512, each: 128, head: Duration::from_secs(20), farewell: Duration::from_secs(5) }
    }
}

/// Counts connections.
#[derive(Default)]
struct Counts {
    all: usize,
    each: HashMap<IpAddr, usize>,
}

/// A connection that is counted until this is dropped.
struct Counted {
    counts: Arc<Mutex<Counts>>,
    address: IpAddr,
}

impl Counted {
    /// Counts one more, where there is room.
    fn one(counts: &Arc<Mutex<Counts>>, address: IpAddr, limits: &Limits) -> Option<Self> {
        let mut now = counts.lock().expect("no holder of this lock can panic");
        let each = now.each.get(&address).copied().unwrap_or(0);
        if now.all >= limits.all || (each >= limits.each && !address.is_loopback()) {
            return None;
        }
        now.all += 1;
        now.each.insert(address, each + 1);
        Some(Self { counts: counts.clone(), address })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut now = self.counts.lock().expect("no holder of this lock can panic");
        now.all -= 1;
        if let Some(each) = now.each.get_mut(&self.address) {
            *each -= 1;
            if *each == 0 {
                now.each.remove(&self.address);
            }
        }
    }
}

/// Serves connections until `stop` fires, and those under way for a little longer.
pub async fn serve(listener: TcpListener, router: Router, limits: &Limits, stop: &CancellationToken) {
    let (counts, under_way) = (Arc::new(Mutex::new(Counts::default())), TaskTracker::new());
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "no connection can be taken");
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(AGAIN) => continue,
                }
            }
        };
        let Some(counted) = Counted::one(&counts, peer.ip().to_canonical(), limits) else {
            tracing::debug!(%peer, "too many connections");
            // It fits into the empty buffer of a new connection; who does not read it loses it.
            let _ = stream.try_write(FULL);
            continue;
        };
        let serving = connection(stream, peer, router.clone(), limits.head, stop.clone());
        under_way.spawn(async move {
            let _counted = counted;
            serving.await;
        });
    }
    under_way.close();
    let _ = tokio::time::timeout(limits.farewell, under_way.wait()).await;
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, head: Duration, stop: CancellationToken) {
    // Events are small and are wanted at once.
    let _ = stream.set_nodelay(true);
    let inner = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        inner.call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head).max_buf_size(BUFFER_MAX);
    let serving = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let mut told = false;
    loop {
        tokio::select! {
            // How a connection ends is the other side's affair.
            _ = &mut serving => return,
            () = stop.cancelled(), if !told => {
                told = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Whether accepting failed for the connection's own sake.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Serves on a port of its own; the answer is where.
    async fn open(limits: Limits, stop: &CancellationToken) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route(
                "/",
                axum::routing::get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }),
            )
            .route("/slow", axum::routing::get(|| tokio::time::sleep(Duration::from_millis(300))));
        let stop = stop.clone();
        (address, tokio::spawn(async move { serve(listener, router, &limits, &stop).await }))
    }

    async fn say(address: SocketAddr, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    async fn rest(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        // A connection that was cut says nothing more, either.
        let _ = stream.read_to_string(&mut text).await;
        text
    }

    const WHOLE: &str = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

    #[tokio::test]
    async fn who_does_not_come_to_the_point_is_cut_off() {
        let limits = Limits { head: Duration::from_millis(200), ..Limits::default() };
        let stop = CancellationToken::new();
        let (address, _) = open(limits, &stop).await;
        let began = Instant::now();
        let mut silent = say(address, "").await;
        let mut half = say(address, "GET / HTTP/1.1\r\nhost: localhost\r\n").await;
        // A line from time to time does not help: the whole head has its time.
        let mut drips = say(address, "GET / HTTP/1.1\r\n").await;
        let dripping = async {
            while drips.write_all(b"x-more: 1\r\n").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            rest(&mut drips).await
        };
        let (one, two, three) = tokio::join!(rest(&mut silent), rest(&mut half), dripping);
        assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
        for text in [one, two, three] {
            assert!(!text.contains("200 OK"), "{text}");
        }
        // Whoever is quick is served, and a second request on the connection has its own time.
        let mut twice = say(address, "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        let mut first = [0; 15];
        twice.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK");
        tokio::time::sleep(Duration::from_millis(100)).await;
        twice.write_all(WHOLE.as_bytes()).await.unwrap();
        let own = twice.local_addr().unwrap().to_string();
        let text = rest(&mut twice).await;
        assert!(text.contains("HTTP/1.1 200 OK") && text.ends_with(&own), "{text}");
    }

    #[tokio::test]
    async fn one_too_many_is_told_so_and_a_free_place_is_given_again() {
        let limits = Limits { all: 3, ..Limits::default() };
        let stop = CancellationToken::new();
        let (address, _) = open(limits, &stop).await;
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(say(address, "GET / HTTP/1.1\r\n").await);
        }
        let mut more = say(address, "").await;
        assert!(rest(&mut more).await.starts_with("HTTP/1.1 503 "));
        drop(held.pop());
        loop {
            let text = rest(&mut say(address, WHOLE).await).await;
            if text.starts_with("HTTP/1.1 200 ") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn heads_that_are_too_large_are_refused_and_a_stop_waits_for_answers() {
        let stop = CancellationToken::new();
        let (address, serving) = open(Limits::default(), &stop).await;
        let large = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(2 * BUFFER_MAX));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(large.as_bytes()).await;
        let text = rest(&mut stream).await;
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 431 "), "{text}");
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200));
        let text = rest(&mut say(address, &many).await).await;
        assert!(text.starts_with("HTTP/1.1 431 "), "{text}");
        let mut slow = say(address, "GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        // It is under way before the stop comes.
        tokio::time::sleep(Duration::from_millis(100)).await;
        stop.cancel();
        assert!(rest(&mut slow).await.starts_with("HTTP/1.1 200 "));
        serving.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }

    #[test]
    fn connections_are_counted_in_all_and_by_address() {
        let limits = Limits { all: 3, each: 2, ..Limits::default() };
        let counts = Arc::default();
        let (near, far) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([192, 0, 2, 1]));
        let one = |address| Counted::one(&counts, address, &limits);
        let first = one(far).expect("there is room");
        let second = one(far).expect("there is room");
        assert!(one(far).is_none(), "one address does not take all");
        let third = one(near).expect("there is room");
        assert!(one(near).is_none() && one(IpAddr::from([192, 0, 2, 2])).is_none(), "all are taken");
        drop(first);
        let again = one(far).expect("one has gone");
        drop((second, third, again));
        let now = counts.lock().unwrap();
        assert_eq!((now.all, now.each.len()), (0, 0));
        let local = Limits { all: 10, each: 2, ..limits };
        drop(now);
        let near: Vec<_> = (0..10).filter_map(|_| Counted::one(&counts, near, &local)).collect();
        assert_eq!(near.len(), 10, "what comes from this machine comes from many");
    }
}
