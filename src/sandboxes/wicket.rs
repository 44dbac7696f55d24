//! The network of a command in `bubblewrap` that has an allow-list: a proxy, and the port that leads to it.
//!
//! Knows when, and for how long; what is let through is [`super::proxy`]'s.

use std::sync::Arc;

use tokio::net::UnixListener;

use super::job::{Job, Place};
use super::proxy::{self, Grant, Proxy};
use super::{OutputSink, SandboxError, handover, text};
use crate::core::domain::Domain;

/// The one way out of a command whose network is an allow-list.
pub(super) struct Wicket {
    grant: Grant,
    proxy: Proxy,
    handover: UnixListener,
    /// Holds the socket, for our user alone.
    _folder: tempfile::TempDir,
}

impl Wicket {
    /// Makes it, and tells the job.
    pub fn open(domains: Arc<[Domain]>, job: &mut Job) -> Result<Self, SandboxError> {
        let cannot =
            |error: std::io::Error| SandboxError::Setup { message: format!("no proxy for its network: {error}") };
        let folder = tempfile::Builder::new().prefix("devo-net-").tempdir().map_err(cannot)?;
        let socket = folder.path().join("port");
        let handover = UnixListener::bind(&socket).map_err(cannot)?;
        if let Place::Bubblewrap { handover, .. } = &mut job.place {
            *handover = Some(text(&socket)?);
        }
        let missing =
            proxy::variables(&domains, &[]).into_iter().filter(|(name, _)| !job.env.iter().any(|(own, _)| own == name));
        let missing: Vec<_> = missing.collect();
        job.env.extend(missing);
        let proxy = Proxy::new();
        Ok(Self { grant: proxy.grant(domains), proxy, handover, _folder: folder })
    }

    /// Does the work with the proxy at its side.
    pub async fn watch<T>(self, output: &dyn OutputSink, work: impl Future<Output = T>) -> T {
        let Self { mut grant, proxy, handover, _folder } = self;
        let answer = async move {
            // If it fails the sandbox hears of it, refuses, and says so.
            if let Ok(port) = handover::take(&handover).await {
                proxy.answer(port);
            }
            // As long as the work goes on the proxy lives.
            let _proxy = proxy;
            std::future::pending::<T>().await
        };
        tokio::select! {
            done = grant.tell(output, work) => done,
            never = answer => never,
        }
    }
}
