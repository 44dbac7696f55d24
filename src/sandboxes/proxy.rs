//! The only way out of a sandbox whose network is an allow-list: an HTTP proxy of our own, on a unix socket or on a port
//! that the sandbox hands over.
//!
//! It runs in the engine, tunnels (`CONNECT`) and passes plain HTTP on, and reaches nothing but what a living [`Grant`]
//! covers. What it is asked comes from a hostile command: everything is bounded, nothing is followed, names are
//! resolved here and the address that was checked is the one that is dialled. It sees no content of a tunnel, so who
//! answers behind a listed name (a shared front, a CDN) is not its knowledge. Unknown here: sandboxes, steps, runs.

mod serve;
mod target;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::StatusCode;
use tokio::net::{TcpListener, TcpStream, UnixSocket};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

use self::target::Target;
use super::OutputSink;
use crate::core::domain::Domain;

/// Where a sandbox's own loopback offers the proxy (see [`super::forward`]).
pub const PORT: u16 = 3128;

/// Connections of one proxy at once, tunnels included; more wait. Package managers open some dozens.
const MOST_CONNECTIONS: usize = 64;
/// What of them a proxy always has, however many the others hold: commands of one run may keep tunnels open for nothing.
const OWN_CONNECTIONS: usize = 4;
/// The rest, of all proxies of this process: each takes two descriptors, of which a process has often no more than 1024.
static COMMON_CONNECTIONS: Semaphore = Semaphore::const_new(256);
/// Refusals told per grant: who tries more hosts than this is not helped by a longer list.
const MOST_TOLD: usize = 50;

/// A proxy. Dropped, it stops: connections are cut and its socket is removed.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    socket: Option<PathBuf>,
}

/// What may be reached while this guard lives. Dropped, it allows nothing, and what it allowed is cut.
#[derive(Debug)]
pub struct Grant {
    shared: Arc<Shared>,
    granted: Arc<Granted>,
    refusals: UnboundedReceiver<String>,
}

#[derive(Debug)]
struct Shared {
    grants: Mutex<Vec<Arc<Granted>>>,
    /// Cancelled when the proxy is dropped.
    stop: CancellationToken,
    /// One for each connection that there may be.
    places: Arc<Semaphore>,
    /// Of these, the ones that are this proxy's own.
    own: Arc<Semaphore>,
    /// And the ones for which it takes turns with others.
    common: &'static Semaphore,
}

#[derive(Debug)]
struct Granted {
    domains: Arc<[Domain]>,
    /// Cancelled when the grant, or the proxy, is dropped.
    end: CancellationToken,
    told: Mutex<BTreeSet<String>>,
    tell: UnboundedSender<String>,
}

/// The variables that make programs use a proxy at [`PORT`] of their own loopback; `direct` are hosts beside that
/// loopback which they reach without it. An address of the loopback that a person listed is the host's: the proxy is asked.
pub fn variables(domains: &[Domain], direct: &[&str]) -> Vec<(String, String)> {
    let url = format!("http://127.0.0.1:{PORT}");
    let mut own = vec!["localhost", "127.0.0.1", "::1"];
    own.retain(|host| !domains.iter().any(|domain| domain.is_address() && domain.names(host)));
    let none = [&own, direct].concat().join(",");
    let mut variables = Vec::new();
    for (name, value) in [("HTTP_PROXY", &url), ("HTTPS_PROXY", &url), ("ALL_PROXY", &url), ("NO_PROXY", &none)] {
        variables.push((name.to_owned(), value.clone()));
        variables.push((name.to_ascii_lowercase(), value.clone()));
    }
    // Without it Node.js does not look at the others.
    variables.push(("NODE_USE_ENV_PROXY".to_owned(), "1".to_owned()));
    variables
}

impl Proxy {
    /// A proxy that listens nowhere yet.
    pub(super) fn new() -> Self {
        Self::beside(&COMMON_CONNECTIONS)
    }

    fn beside(common: &'static Semaphore) -> Self {
        let [places, own] = [MOST_CONNECTIONS, OWN_CONNECTIONS].map(|count| Arc::new(Semaphore::new(count)));
        let shared = Shared { grants: Mutex::default(), stop: CancellationToken::new(), places, own, common };
        Self { shared: Arc::new(shared), socket: None }
    }

    /// Listens on a new unix socket that only this user may connect to. To be called on a tokio runtime.
    ///
    /// # Errors
    /// If there is something at that path, it is longer than 107 bytes, or its folder cannot be written.
    pub fn listen(socket: &Path) -> io::Result<Self> {
        let unbound = UnixSocket::new_stream()?;
        unbound.bind(socket)?;
        // From here on its drop removes the file.
        let mut proxy = Self::new();
        proxy.socket = Some(socket.to_owned());
        fs::set_permissions(socket, Permissions::from_mode(0o600))?;
        let listener = unbound.listen(MOST_CONNECTIONS as u32)?;
        tokio::spawn(serve::accept(listener, proxy.shared.clone()));
        Ok(proxy)
    }

    /// Answers on this port too, which may be one of another network namespace.
    pub(super) fn answer(&self, port: TcpListener) {
        tokio::spawn(serve::accept(port, self.shared.clone()));
    }

    /// Lets these domains through until the guard is dropped. What several living grants allow adds up.
    pub fn grant(&self, domains: Arc<[Domain]>) -> Grant {
        let (tell, refusals) = unbounded_channel();
        let end = self.shared.stop.child_token();
        let granted = Arc::new(Granted { domains, end, told: Mutex::default(), tell });
        self.shared.grants().push(granted.clone());
        Grant { shared: self.shared.clone(), granted, refusals }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        if let Some(socket) = &self.socket {
            let _ = fs::remove_file(socket);
        }
    }
}

impl Grant {
    /// Does the work, and meanwhile tells each refusal once, in words for a person.
    pub async fn tell<T>(&mut self, output: &dyn OutputSink, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let done = loop {
            tokio::select! {
                done = &mut work => break done,
                refusal = self.refusals.recv() => output.note(&refusal.expect("this guard holds a sender")),
            }
        };
        for refusal in self.refused() {
            output.note(&refusal);
        }
        done
    }

    /// The refusals that nobody was told yet.
    pub fn refused(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.refusals.try_recv().ok()).collect()
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.granted.end.cancel();
        self.shared.grants().retain(|granted| !Arc::ptr_eq(granted, &self.granted));
    }
}

impl Granted {
    /// Whether the client may reach that; `Some(true)` if a person wrote down this very address.
    fn admits(&self, target: &Target) -> Option<bool> {
        let mut covering = self.domains.iter().filter(|domain| domain.covers(&target.host, target.port));
        match target.is_address() {
            true => covering.any(Domain::is_address).then_some(true),
            false => covering.next().map(|_| false),
        }
    }

    fn refuse(&self, target: &Target, why: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() > MOST_TOLD || !told.insert(target.to_string()) {
            return;
        }
        let text = match told.len() > MOST_TOLD {
            true => format!("network: refused more than {MOST_TOLD} hosts; further ones are not listed"),
            false => refusal(target, why),
        };
        // The guard may be gone this instant, and with it who wants to know.
        let _ = self.tell.send(text);
    }
}

fn refusal(target: &Target, why: &str) -> String {
    format!("network: refused {target} ({why})")
}

impl Shared {
    fn grants(&self) -> MutexGuard<'_, Vec<Arc<Granted>>> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The grant that lets the target through, and whether it is a literal address.
    fn admit(&self, target: &Target) -> Result<(Arc<Granted>, bool), Failed> {
        let admitted = self.grants().iter().find_map(|granted| Some((granted.clone(), granted.admits(target)?)));
        admitted.ok_or_else(|| self.refuse(target, "not in the allow-list of this step"))
    }

    fn refuse(&self, target: &Target, why: &str) -> Failed {
        for granted in self.grants().iter() {
            granted.refuse(target, why);
        }
        Failed { status: StatusCode::FORBIDDEN, text: refusal(target, why) }
    }

    /// A connection to the target, if it may be reached.
    async fn connect(&self, target: &Target) -> Result<(TcpStream, CancellationToken), Failed> {
        let (granted, literal) = self.admit(target)?;
        let connected = tokio::select! {
            connected = target.connect(literal) => connected,
            () = granted.end.cancelled() => return Err(self.refuse(target, "the command that might reach it has ended")),
        };
        match connected {
            Ok(stream) => Ok((stream, granted.end.clone())),
            Err(target::Unreached::Forbidden(why)) => Err(self.refuse(target, &why)),
            Err(target::Unreached::Failed(why)) => {
                Err(Failed { status: StatusCode::BAD_GATEWAY, text: format!("network: {target}: {why}") })
            }
        }
    }
}

/// Why a request was not served: what the client is answered.
#[derive(Debug)]
struct Failed {
    status: StatusCode,
    text: String,
}

impl Failed {
    fn bad(text: &str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, text: format!("network: {text}") }
    }
}

#[cfg(test)]
mod tests;
