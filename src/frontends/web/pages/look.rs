//! Pages that only show: the pipelines of the home, and what `devo doctor` finds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::{Frame, Page, page, problem_page};
use crate::app::{App, Check, Level};
use crate::error::Error;
use crate::frontends::web::Site;
use crate::frontends::web::guard::Visitor;
use crate::frontends::web::problem::Problem;

/// How long a look of the doctor's is believed.
const BELIEVED: Duration = Duration::from_secs(10);

/// GET /pipelines.
pub async fn pipelines(State(site): State<Arc<Site>>, visitor: Visitor, headers: HeaderMap, uri: Uri) -> Page {
    let frame = Frame::of(&site, &headers, &uri, Some(&visitor)).await;
    let app = site.app.clone();
    match tokio::task::spawn_blocking(move || app.pipelines()).await {
        Ok(pipelines) => page(&site, &frame, StatusCode::OK, "pipelines.html", &json!({"pipelines": pipelines})),
        Err(error) => Err(problem_page(&site, &frame, &Problem::from(Error::bug(error.to_string())))),
    }
}

/// What was found of the machine and the settings: one look at a time, and believed for a moment, because it reads the whole
/// journal and asks other machines.
#[derive(Default)]
pub struct Doctor(Mutex<Option<(Instant, Vec<Check>)>>);

impl Doctor {
    async fn look(&self, app: &Arc<App>) -> Vec<Check> {
        let mut known = self.0.lock().await;
        if let Some((at, checks)) = known.as_ref()
            && at.elapsed() < BELIEVED
        {
            return checks.clone();
        }
        let (app, runtime) = (app.clone(), Handle::current());
        // Much of it waits for disks and programs: that is not for the threads that serve.
        let looked = tokio::task::spawn_blocking(move || runtime.block_on(app.checks())).await;
        let checks = looked.unwrap_or_else(|error| vec![Check::new("doctor", Level::Critical, error.to_string())]);
        known.insert((Instant::now(), checks)).1.clone()
    }
}

/// GET /doctor.
pub async fn doctor(State(site): State<Arc<Site>>, visitor: Visitor, headers: HeaderMap, uri: Uri) -> Page {
    let frame = Frame::of(&site, &headers, &uri, Some(&visitor)).await;
    let checks = site.doctor.look(&site.app).await;
    page(&site, &frame, StatusCode::OK, "doctor.html", &json!({"checks": checks}))
}
