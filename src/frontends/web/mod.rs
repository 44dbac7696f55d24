//! The web channel: pages and API of `devo serve`, on one address. Whatever someone asks for becomes a call of the desk;
//! what a run is, and what may happen to it, is known elsewhere.
#![allow(clippy::result_large_err, reason = "a refusal is an answer: made once per request, and returned at once")]

pub mod access;
mod api;
mod guard;
mod hooks;
mod limits;
mod metrics;
mod pages;
mod patch;
mod problem;
pub mod secret;
mod serve;
mod stands;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use secrecy::SecretString;
use serde_json::Value;
use tower_http::compression::CompressionLayer;
use tower_http::timeout::TimeoutLayer;

use super::Channel;
use crate::app::{App, Desk};
use crate::config::Config;
use crate::core::id::RunId;
use crate::error::Error;
use access::Access;
use limits::Buckets;
use metrics::Figures;
use stands::{Stand, Stands};

/// The largest body, in bytes: a task file's own limit.
const BODY_MAX: usize = crate::frontends::inbox::TASK_MAX as usize;
/// How long an answer may take to begin; streams go on for as long as they like.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests of one address: as many at once, and one more so often.
const VISITS: (u32, Duration) = (300, Duration::from_millis(20));
/// Tries to sign in of one address: as many at once, and one more so often.
const SIGN_INS: (u32, Duration) = (8, Duration::from_secs(15));

/// What every handler works with.
pub struct Site {
    app: Arc<App>,
    desk: Arc<Desk>,
    access: Access,
    pages: pages::Sheets,
    figures: Figures,
    visits: Buckets<IpAddr>,
    sign_ins: Buckets<IpAddr>,
    hook_secrets: BTreeMap<String, SecretString>,
    stands: Stands,
    doctor: pages::Doctor,
}

impl Site {
    /// Puts it together; the owner's token is made here at the first start.
    fn new(desk: Arc<Desk>) -> Result<Arc<Self>, Error> {
        let app = desk.app.clone();
        Ok(Arc::new(Self {
            access: Access::new(app.clone())?,
            pages: pages::Sheets::new()?,
            figures: Figures::default(),
            visits: Buckets::new(VISITS.0, VISITS.1),
            sign_ins: Buckets::new(SIGN_INS.0, SIGN_INS.1),
            hook_secrets: hook_secrets(&app)?,
            stands: Stands::default(),
            doctor: pages::Doctor::default(),
            app,
            desk,
        }))
    }

    /// The settings in force.
    fn config(&self) -> Arc<Config> {
        self.app.config()
    }

    /// How a run stands now; `None` for one that is not more than submitted, or not there.
    async fn stands(&self, run: RunId) -> Result<Option<Arc<Stand>>, Error> {
        self.stands.of(self.app.journal.as_ref(), run).await
    }

    /// The contract's document of a run.
    async fn document(&self, run: RunId) -> Result<Value, Error> {
        let stand = self.stands(run).await?;
        self.document_of(run, stand.as_deref()).await
    }

    /// The same, of a run that stands as the caller knows.
    async fn document_of(&self, run: RunId, stand: Option<&Stand>) -> Result<Value, Error> {
        match stand {
            Some(stand) => self.app.with_standing(run, stand.document()).await,
            None => self.desk.document(run).await,
        }
    }
}

/// Every route, behind the gate.
fn router(site: Arc<Site>) -> Router {
    api::router()
        .merge(pages::router())
        .fallback(pages::nothing)
        .method_not_allowed_fallback(pages::wrong_method)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(TimeoutLayer::with_status_code(axum::http::StatusCode::SERVICE_UNAVAILABLE, PATIENCE))
        .layer(CompressionLayer::new())
        .layer(from_fn_with_state(site.clone(), guard::gate))
        .with_state(site)
}

/// The secrets of all hooks.
fn hook_secrets(app: &App) -> Result<BTreeMap<String, SecretString>, Error> {
    let mut secrets = BTreeMap::new();
    for (name, hook) in &app.config().web.hooks {
        let secret = app.secret(&hook.secret)?.ok_or_else(|| {
            Error::refused("no_secret", format!("the hook `{name}` has no secret: {} is not set", hook.secret))
                .hint(format!("set {0}, or {0}_FILE to a file that holds it", hook.secret))
        })?;
        secrets.insert(name.clone(), secret);
    }
    Ok(secrets)
}

/// The channel, and the address that it has taken.
struct WebChannel {
    listener: Mutex<Option<TcpListener>>,
    address: SocketAddr,
}

/// Takes the address.
///
/// # Errors
/// An address that others can reach while no users are configured; a hook without its secret.
pub fn open(app: &App) -> Result<Option<Box<dyn Channel>>, Error> {
    let config = app.config();
    may_listen(&config)?;
    hook_secrets(app)?;
    let wanted = config.web.listen;
    // An address that is taken is no reason to serve nothing at all: the channel is opened again until it is free.
    let listener = bind(wanted).ok();
    let address = listener.as_ref().and_then(|listener| listener.local_addr().ok()).unwrap_or(wanted);
    Ok(Some(Box::new(WebChannel { listener: Mutex::new(listener), address })))
}

/// Whether the pages may be served where devo.yaml says.
///
/// # Errors
/// An address that others can reach while no users are configured.
pub fn may_listen(config: &Config) -> Result<(), Error> {
    let wanted = config.web.listen;
    if wanted.ip().is_loopback() || !config.users.is_empty() {
        return Ok(());
    }
    let message = format!("`web.listen: {wanted}` can be reached by others, and devo.yaml names no `users`");
    Err(Error::refused("no_users", message)
        .hint("add users (`devo user hash` makes their hashes), or listen on 127.0.0.1 behind a proxy or a tunnel"))
}

fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    let open = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    open().map_err(|error: std::io::Error| {
        Error {
            exit: crate::error::Exit::Refused,
            ..Error::machine("listen", format!("cannot listen on {address}"), &error)
        }
        .hint("choose another address: `web: {listen: 127.0.0.1:PORT}` in devo.yaml; port 0 takes a free one")
    })
}

#[async_trait]
impl Channel for WebChannel {
    fn name(&self) -> &'static str {
        "web"
    }

    fn says(&self) -> Option<String> {
        let open = self.listener.lock().expect("no holder of this lock can panic").is_some();
        let how = "the owner's token is in the home's file `token`; `devo login-link` signs a browser in";
        open.then(|| format!("http://{} ({how})", self.address))
    }

    async fn serve(&self, desk: Arc<Desk>) -> Result<(), Error> {
        let held = self.listener.lock().expect("no holder of this lock can panic").take();
        let listener = match held {
            Some(listener) => listener,
            None => bind(self.address)?,
        };
        let failed = |error: std::io::Error| Error::machine("listen", "the web channel cannot go on", &error);
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        let site = Site::new(desk.clone())?;
        access::listening(&site.app, self.address).await?;
        let figures = tokio::spawn(metrics::follow(site.clone()));
        let stop = desk.stopping();
        let mut limits = serve::Limits::default();
        if site.config().web.behind_proxy {
            // All come from the proxy, whose affair it is.
            limits.each = usize::MAX;
        }
        serve::serve(listener, router(site), &limits, &stop).await;
        figures.abort();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
