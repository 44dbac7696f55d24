//! One connection to the proxy after another: requests read, answered, tunnelled or passed on.
//!
//! Whether a target may be reached is for [`Shared::connect`]; here it is about what HTTP lets a client say, and what
//! of that another server shall hear.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, SemaphorePermit};
use tokio::time::sleep;

use super::target::Target;
use super::{Failed, Shared};

/// A request's head, in bytes: a large cookie and a long URL fit.
const LARGEST_HEAD: usize = 64 << 10;
pub(super) const MOST_HEADERS: usize = 100;
/// From the opening of a connection, or the last answer on it, to the end of the next head.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// A tunnel that moved nothing in either direction for so long is cut.
const IDLE: Duration = Duration::from_secs(600);
/// What goes in one piece from one side of a tunnel to the other, in bytes.
const PIECE: usize = 64 << 10;

type Body = BoxBody<Bytes, hyper::Error>;

fn empty(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never: Infallible| match never {}).boxed()
}

/// What a connection holds until it, and the tunnel that it became, is over.
struct Place {
    _place: OwnedSemaphorePermit,
    _share: Share,
}

/// Whose a place is.
enum Share {
    Own { _permit: OwnedSemaphorePermit },
    Common { _permit: SemaphorePermit<'static> },
}

impl Place {
    /// Waits for one; `None` only when nobody gives any more.
    async fn of(shared: &Shared) -> Option<Self> {
        let place = shared.places.clone().acquire_owned().await.ok()?;
        let share = tokio::select! {
            biased;
            own = shared.own.clone().acquire_owned() => Share::Own { _permit: own.ok()? },
            common = shared.common.acquire() => Share::Common { _permit: common.ok()? },
        };
        Some(Self { _place: place, _share: share })
    }
}

/// A client's end.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// Where clients connect.
pub(super) trait Listener: Send + 'static {
    type Stream: Stream;

    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.accept().await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Serves until the proxy stops.
pub(super) async fn accept(listener: impl Listener, shared: Arc<Shared>) {
    let stop = shared.stop.clone();
    let serve_all = async {
        loop {
            let Some(place) = Place::of(&shared).await else { return };
            match listener.next().await {
                Ok(stream) => drop(tokio::spawn(serve(stream, shared.clone(), Arc::new(place)))),
                // Out of descriptors, most likely: some connection has to end first.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    };
    tokio::select! {
        () = serve_all => {}
        () = stop.cancelled() => {}
    }
}

async fn serve<S: Stream>(stream: S, shared: Arc<Shared>, place: Arc<Place>) {
    let stop = shared.stop.clone();
    let service = service_fn(|request| {
        let (shared, place) = (shared.clone(), place.clone());
        async move { Ok::<_, Infallible>(answer::<S>(request, &shared, place).await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    server.max_headers(MOST_HEADERS).max_buf_size(LARGEST_HEAD).auto_date_header(false);
    tokio::select! {
        // Whatever is wrong with a connection ends it, and nothing else.
        _ = server.serve_connection(TokioIo::new(stream), service).with_upgrades() => {}
        () = stop.cancelled() => {}
    }
}

async fn answer<S: Stream>(request: Request<Incoming>, shared: &Shared, place: Arc<Place>) -> Response<Body> {
    let answered = match *request.method() {
        Method::CONNECT => tunnel::<S>(request, shared, place).await,
        _ => pass_on(request, shared, place).await,
    };
    answered.unwrap_or_else(|failed| {
        let mut response = Response::new(empty(failed.text + "\n"));
        *response.status_mut() = failed.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        // What a client sends after a request that was not understood must not be read as another.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    })
}

async fn tunnel<S: Stream>(
    request: Request<Incoming>,
    shared: &Shared,
    place: Arc<Place>,
) -> Result<Response<Body>, Failed> {
    let target = Target::of(request.uri(), None).map_err(Failed::bad)?;
    agrees(request.headers(), &target, None)?;
    let (there, end) = shared.connect(&target).await?;
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<S>>() else { return };
        tokio::select! {
            _ = copy(parts.io.into_inner(), &parts.read_buf, there) => {}
            () = end.cancelled() => {}
        }
        drop(place);
    });
    Ok(Response::new(empty(String::new())))
}

/// Copies both ways until both have ended, one has failed, or nothing moves any more.
async fn copy(here: impl AsyncRead + AsyncWrite, first: &[u8], mut there: TcpStream) -> io::Result<()> {
    there.write_all(first).await?;
    let moved = AtomicU64::new(0);
    let (from_here, to_here) = tokio::io::split(here);
    let (from_there, to_there) = there.into_split();
    let both = async {
        tokio::try_join!(pump(from_here, to_there, &moved), pump(from_there, to_here, &moved)).map(|((), ())| ())
    };
    tokio::select! {
        done = both => done,
        () = idle(&moved) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, moved: &AtomicU64) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece).await? {
            0 => return to.shutdown().await,
            read => to.write_all(&piece[..read]).await?,
        }
        moved.fetch_add(1, Ordering::Relaxed);
    }
}

async fn idle(moved: &AtomicU64) {
    let mut before = u64::MAX;
    loop {
        let now = moved.load(Ordering::Relaxed);
        if now == before {
            return;
        }
        before = now;
        sleep(IDLE).await;
    }
}

async fn pass_on(mut request: Request<Incoming>, shared: &Shared, place: Arc<Place>) -> Result<Response<Body>, Failed> {
    if request.uri().scheme_str().is_none() {
        return Err(Failed::bad("this is a proxy: it takes whole URLs, or CONNECT"));
    }
    if request.uri().scheme_str() != Some("http") {
        return Err(Failed::bad("this proxy takes http:// URLs; everything else goes by CONNECT"));
    }
    let target = Target::of(request.uri(), Some(80)).map_err(Failed::bad)?;
    agrees(request.headers(), &target, Some(80))?;
    let headers = request.headers();
    if headers.contains_key(header::TRANSFER_ENCODING) && headers.contains_key(header::CONTENT_LENGTH) {
        return Err(Failed::bad("a request with two lengths is ambiguous"));
    }
    let (there, end) = shared.connect(&target).await?;
    let gateway = |error: hyper::Error| Failed {
        status: StatusCode::BAD_GATEWAY,
        text: format!("network: {target} did not answer: {error}"),
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(there)).await.map_err(gateway)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = connection => {}
            () = end.cancelled() => {}
        }
        drop(place);
    });
    let host = request.uri().authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse::<Uri>().map_err(|_| Failed::bad("the URL has no path that can be passed on"))?;
    *request.version_mut() = Version::HTTP_11;
    strip(request.headers_mut());
    request.headers_mut().remove(header::EXPECT);
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    request.headers_mut().insert(header::HOST, host.expect("the target was made from it"));
    let mut response = sender.send_request(request).await.map_err(gateway)?;
    if response.status().is_informational() {
        return Err(Failed { status: StatusCode::BAD_GATEWAY, text: format!("network: {target} switched protocols") });
    }
    strip(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
    Ok(response.map(|body| body.boxed()))
}

/// Refuses a request whose `Host` is another than its target: what stands behind could believe either.
fn agrees(headers: &HeaderMap, target: &Target, port: Option<u16>) -> Result<(), Failed> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let Some(host) = hosts.next() else { return Ok(()) };
    let said = host.to_str().ok().and_then(|host| host.parse::<Uri>().ok());
    // Clients leave the port of a CONNECT out of its `Host` now and then.
    let said = said.and_then(|uri| Target::of(&uri, port.or(Some(target.port))).ok());
    match said.is_some_and(|said| said == *target) && hosts.next().is_none() {
        true => Ok(()),
        false => Err(Failed::bad("the `Host` header is not the host of the URL")),
    }
}

/// Removes what is meant for the next hop alone. How long a body is stays hyper's affair.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // Named there by someone hostile, it would change where a body ends, or who is asked.
        .filter(|name| *name != header::CONTENT_LENGTH && *name != header::HOST)
        .collect();
    let own = ["connection", "proxy-connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];
    for name in own.into_iter().chain(["proxy-authorization", "proxy-authenticate"]) {
        headers.remove(name);
    }
    for name in named {
        headers.remove(name);
    }
}
