//! Pages that only show: the pipelines of the home, and what `devo doctor` finds.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde_json::json;

use super::{Frame, Page, page, problem_page};
use crate::error::Error;
use crate::frontends::web::Site;
use crate::frontends::web::guard::Visitor;
use crate::frontends::web::problem::Problem;

/// GET /pipelines.
pub async fn pipelines(State(site): State<Arc<Site>>, visitor: Visitor, headers: HeaderMap, uri: Uri) -> Page {
    let frame = Frame::of(&site, &headers, &uri, Some(&visitor)).await;
    let app = site.app.clone();
    match tokio::task::spawn_blocking(move || app.pipelines()).await {
        Ok(pipelines) => page(&site, &frame, StatusCode::OK, "pipelines.html", &json!({"pipelines": pipelines})),
        Err(error) => Err(problem_page(&site, &frame, &Problem::from(Error::bug(error.to_string())))),
    }
}

/// GET /doctor.
pub async fn doctor(State(site): State<Arc<Site>>, visitor: Visitor, headers: HeaderMap, uri: Uri) -> Page {
    let frame = Frame::of(&site, &headers, &uri, Some(&visitor)).await;
    let checks = site.app.checks().await;
    page(&site, &frame, StatusCode::OK, "doctor.html", &json!({"checks": checks}))
}
