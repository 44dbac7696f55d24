//! The pages: HTML made here, complete without a script. They read documents and hand words to the desk.

mod diff;
mod inbox;
mod login;
mod look;
mod new;
mod run;
mod show;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use rust_embed::Embed;
use serde::Serialize;

use super::Site;
use super::guard::{Visitor, cookie};
use super::problem::Problem;
use crate::config::UserRole;
use crate::core::plan::sha256;
use crate::error::Error;
use crate::frontends::words::{Lang, Words};
use crate::templates::Pages;
pub use look::Doctor;

/// The cookie of the chosen language.
const LANG_COOKIE: &str = "devo_lang";

#[derive(Embed)]
#[folder = "src/frontends/web/assets"]
struct Files;

/// The templates and the files that pages load.
pub struct Sheets {
    pages: Pages,
    /// Part of the addresses of files: a new version is a new address.
    version: String,
}

impl Sheets {
    /// Reads the embedded files.
    pub fn new() -> Result<Self, Error> {
        let mut templates = Vec::new();
        let mut all = Vec::new();
        for name in Files::iter() {
            let file = Files::get(&name).ok_or_else(|| Error::bug(format!("{name} is not embedded")))?;
            if name.ends_with(".html") {
                templates.push((name.to_string(), String::from_utf8_lossy(&file.data).into_owned()));
            } else {
                all.extend_from_slice(&file.data);
            }
        }
        let mut pages = Pages::new(templates).map_err(|error| Error::bug(format!("a page's template: {error}")))?;
        pages.add_filter("check_title", |id, tag| Lang::of_tag(tag).unwrap_or_default().check_title(id));
        let version = sha256(&all)["sha256:".len()..][..12].to_owned();
        Ok(Self { pages, version })
    }

    /// Sends a browser that came from elsewhere on to the same page, from one of ours.
    pub fn bounce(&self, to: &str) -> Response {
        let values = serde_json::json!({"to": to});
        match self.pages.render("bounce.html", &values) {
            Ok(text) => Html(text).into_response(),
            Err(error) => broken(&error.to_string()),
        }
    }
}

/// What every page shows around its own part.
#[derive(Serialize)]
pub struct Frame {
    /// The texts of its language.
    pub w: &'static Words,
    lang: Lang,
    other_lang: &'static str,
    version: String,
    path: String,
    user: Option<String>,
    csrf: String,
    may_submit: bool,
    may_approve: bool,
    needs_me: usize,
}

impl Frame {
    /// For whoever asks.
    pub async fn of(site: &Site, headers: &HeaderMap, uri: &Uri, visitor: Option<&Visitor>) -> Self {
        let asked =
            uri.query().into_iter().flat_map(|query| query.split('&')).find_map(|pair| pair.strip_prefix("lang="));
        let chosen = asked.or_else(|| cookie(headers, LANG_COOKIE)).and_then(Lang::of_tag);
        let header = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let lang = chosen.unwrap_or_else(|| Lang::accepted(header));
        let needs_me = match visitor {
            None => 0,
            Some(_) => inbox::needing(site).await.unwrap_or(0),
        };
        let may = |role| visitor.is_some_and(|visitor| visitor.person.may(role));
        Self {
            w: lang.words(),
            lang,
            other_lang: if lang == Lang::En { "es" } else { "en" },
            version: site.pages.version.clone(),
            path: uri.path().to_owned(),
            user: visitor.map(|visitor| visitor.person.name.clone()),
            csrf: visitor.map(|visitor| visitor.session.csrf.clone()).unwrap_or_default(),
            may_submit: may(UserRole::Submitter),
            may_approve: may(UserRole::Approver),
            needs_me,
        }
    }
}

/// A page, or what went wrong while it was made.
pub type Page = Result<Response, Response>;

/// Renders a page.
pub fn page(site: &Site, frame: &Frame, status: StatusCode, name: &str, own: &impl Serialize) -> Page {
    let mut values = serde_json::to_value(own).map_err(|error| broken(&error.to_string()))?;
    values["frame"] = serde_json::to_value(frame).map_err(|error| broken(&error.to_string()))?;
    let text = site.pages.pages.render(name, &values).map_err(|error| broken(&format!("{name}: {error}")))?;
    let mut response = (status, Html(text)).into_response();
    // A language that was asked for by the address stays.
    let lang = format!("{LANG_COOKIE}={}; Path=/; Max-Age=31536000; SameSite=Strict", frame.lang.tag());
    if let Ok(value) = HeaderValue::from_str(&lang) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
    Ok(response)
}

/// A page that says what went wrong.
pub fn problem_page(site: &Site, frame: &Frame, problem: &Problem) -> Response {
    let mut values = serde_json::json!({"problem": problem});
    values["problem"]["detail"] = frame.lang.refusal(&problem.code, &problem.detail).into();
    page(site, frame, problem.status(), "problem.html", &values).unwrap_or_else(|response| response)
}

/// Our own templates failed: nothing that whoever asked could mend.
fn broken(error: &str) -> Response {
    tracing::error!(error, "a page could not be made");
    (StatusCode::INTERNAL_SERVER_ERROR, "this page could not be made; the daemon's log says why\n").into_response()
}

/// Where there is nothing.
pub async fn nothing(State(site): State<Arc<Site>>, headers: HeaderMap, uri: Uri) -> Response {
    let frame = Frame::of(&site, &headers, &uri, None).await;
    problem_page(&site, &frame, &Problem::not_found(frame.w.no_page))
}

/// A page or a route of the API that takes other methods; the header `Allow` names them.
pub async fn wrong_method(State(site): State<Arc<Site>>, headers: HeaderMap, uri: Uri) -> Response {
    let problem = |text: &str| Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", text);
    if ["/api/", "/hooks/"].iter().any(|place| uri.path().starts_with(place)) {
        let hint = "the header `Allow` names those that it takes, and GET /api/openapi.json tells what they do";
        return problem("this place does not take this method").hint(hint).into_response();
    }
    let frame = Frame::of(&site, &headers, &uri, None).await;
    problem_page(&site, &frame, &problem(frame.w.no_page))
}

/// The pages.
pub fn router() -> Router<Arc<Site>> {
    Router::new()
        .route("/", get(inbox::show))
        .route("/live", get(inbox::live))
        .route("/new", get(new::show).post(new::submit))
        .route("/runs/{id}", get(run::show))
        .route("/runs/{id}/signals", post(run::signal))
        .route("/runs/{id}/graph.svg", get(run::graph))
        .route("/runs/{id}/logs", get(run::logs))
        .route("/runs/{id}/diff", get(diff::show))
        .route("/runs/{id}/comment", post(diff::comment))
        .route("/r/{id}", get(run::short))
        .route("/pipelines", get(look::pipelines))
        .route("/doctor", get(look::doctor))
        .route("/login", get(login::show).post(login::sign_in))
        .route("/logout", post(login::sign_out))
        .route("/assets/{name}", get(asset))
        .route("/favicon.ico", get(|| async { StatusCode::NOT_FOUND }))
}

async fn asset(Path(name): Path<String>) -> Response {
    let kind = match name.rsplit_once('.').map(|(_, kind)| kind) {
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("webmanifest") => "application/manifest+json",
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    match Files::get(&name) {
        Some(file) => {
            let headers =
                [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "public, max-age=31536000, immutable")];
            (headers, file.data.into_owned()).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
