//! The API: one table of routes, of which both the router and its description are made, so that neither knows more than the
//! other.

pub mod events;
pub mod logs;
mod openapi;
pub mod runs;
pub mod shapes;

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::guard::Caller;
use super::problem::Problem;
use super::{Site, hooks, metrics};

/// Makes a type's schema.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// Where a parameter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the path.
    Path,
    /// Behind the `?`.
    Query,
    /// In a header.
    Header,
}

/// A parameter of a route.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    name: &'static str,
    place: Place,
    about: &'static str,
}

/// An answer of a route.
#[derive(Clone, Copy)]
pub struct Answer {
    status: u16,
    about: &'static str,
    media: &'static str,
    schema: Option<SchemaOf>,
}

impl Answer {
    const fn json(status: u16, about: &'static str, schema: SchemaOf) -> Self {
        Self { status, about, media: "application/json", schema: Some(schema) }
    }

    const fn other(status: u16, about: &'static str, media: &'static str) -> Self {
        Self { status, about, media, schema: None }
    }
}

/// A route.
pub struct Route {
    method: &'static str,
    path: &'static str,
    about: &'static str,
    /// Whether no token is needed.
    open: bool,
    parameters: &'static [Parameter],
    body: Option<SchemaOf>,
    answers: &'static [Answer],
    /// The statuses of problems, beside 401, 421, 429 and 500.
    problems: &'static [u16],
    handler: fn() -> MethodRouter<Arc<Site>>,
}

const ID: Parameter =
    Parameter { name: "id", place: Place::Path, about: "The run: its id, the beginning of it, or its short id" };

const fn query(name: &'static str, about: &'static str) -> Parameter {
    Parameter { name, place: Place::Query, about }
}

/// Every route of the API.
pub const ROUTES: &[Route] = &[
    Route {
        method: "get",
        path: "/api/v1/runs",
        about: "Runs, newest first",
        open: false,
        parameters: &[
            query("cursor", "The `next` of the page before"),
            query("limit", "How many, 1 to 200; 50 if not given"),
            query("status", "Only runs that stand so"),
            query("repo", "Only runs of this repository"),
        ],
        body: None,
        answers: &[Answer::json(200, "A page of runs", of::<shapes::Runs>)],
        problems: &[400],
        handler: || get(runs::list),
    },
    Route {
        method: "post",
        path: "/api/v1/runs",
        about: "Submits a task",
        open: false,
        parameters: &[Parameter {
            name: "Idempotency-Key",
            place: Place::Header,
            about: "The same key twice is one run; the same as `key` in the body",
        }],
        body: Some(of::<shapes::Task>),
        answers: &[
            Answer::json(201, "The new run; `Location` is its address", of::<shapes::Run>),
            Answer::json(200, "The run that has this key", of::<shapes::Run>),
        ],
        problems: &[400, 403, 413, 415, 422],
        handler: || post(runs::submit),
    },
    Route {
        method: "get",
        path: "/api/v1/runs/{id}",
        about: "A run's document",
        open: false,
        parameters: &[ID],
        body: None,
        answers: &[Answer::json(200, "The run", of::<shapes::Run>)],
        problems: &[404],
        handler: || get(runs::read),
    },
    Route {
        method: "post",
        path: "/api/v1/runs/{id}/signals",
        about: "A person's word to a run",
        open: false,
        parameters: &[ID],
        body: Some(of::<shapes::SignalBody>),
        answers: &[Answer::json(200, "It was recorded; the run as it is now", of::<shapes::Run>)],
        problems: &[400, 403, 404, 409, 413, 415, 422],
        handler: || post(runs::signal),
    },
    Route {
        method: "get",
        path: "/api/v1/runs/{id}/events",
        about: "A run's events, live: names and data are those of `devo run --json`, ids are `seq`; the last one is `result`",
        open: false,
        parameters: &[
            ID,
            Parameter { name: "Last-Event-ID", place: Place::Header, about: "Go on behind the event of this number" },
            query("after", "The same, for a reader's first connection"),
        ],
        body: None,
        answers: &[Answer::other(200, "The events", "text/event-stream")],
        problems: &[400, 404],
        handler: || get(runs::events),
    },
    Route {
        method: "get",
        path: "/api/v1/runs/{id}/logs",
        about: "What the steps said; with `Accept: text/event-stream` live, as events `line`",
        open: false,
        parameters: &[
            ID,
            query("step", "Only this step"),
            query("after", "Go on behind this place; without it, the last lines come"),
            query("limit", "How many lines, 1 to 5000; 500 if not given"),
        ],
        body: None,
        answers: &[Answer::json(200, "Lines", of::<shapes::Logs>)],
        problems: &[400, 404],
        handler: || get(runs::logs),
    },
    Route {
        method: "get",
        path: "/api/v1/runs/{id}/diff",
        about: "What the run changed",
        open: false,
        parameters: &[ID],
        body: None,
        answers: &[Answer::json(200, "The patch and its files", of::<shapes::Diff>)],
        problems: &[404, 422],
        handler: || get(runs::diff),
    },
    Route {
        method: "get",
        path: "/api/v1/runs/{id}/plan",
        about: "The plan and its revisions",
        open: false,
        parameters: &[ID],
        body: None,
        answers: &[Answer::json(200, "The plan", of::<shapes::Plans>)],
        problems: &[404],
        handler: || get(runs::plan),
    },
    Route {
        method: "get",
        path: "/api/v1/pipelines",
        about: "The pipelines of the home",
        open: false,
        parameters: &[],
        body: None,
        answers: &[Answer::json(200, "The pipelines", of::<shapes::Pipelines>)],
        problems: &[],
        handler: || get(pipelines),
    },
    Route {
        method: "post",
        path: "/hooks/{name}",
        about: "Another program's task, signed with the hook's secret",
        open: true,
        parameters: &[
            Parameter { name: "name", place: Place::Path, about: "A key of `web.hooks` in devo.yaml" },
            Parameter {
                name: hooks::SIGNATURE,
                place: Place::Header,
                about: "`sha256=` and the HMAC-SHA256 of the body in hex; `X-Hub-Signature-256` is read as well",
            },
        ],
        body: Some(of::<hooks::HookBody>),
        answers: &[
            Answer::json(202, "The new run", of::<hooks::Taken>),
            Answer::json(200, "The run of the same body or key", of::<hooks::Taken>),
        ],
        problems: &[400, 413, 422],
        handler: || post(hooks::knock),
    },
    Route {
        method: "get",
        path: "/healthz",
        about: "Whether the daemon answers",
        open: true,
        parameters: &[],
        body: None,
        answers: &[
            Answer::json(200, "It does", of::<shapes::Health>),
            Answer::json(503, "It is stopping, or cannot read its journal", of::<shapes::Health>),
        ],
        problems: &[],
        handler: || get(health),
    },
    Route {
        method: "get",
        path: "/metrics",
        about: "Figures for Prometheus",
        open: false,
        parameters: &[],
        body: None,
        answers: &[Answer::other(200, "Figures", "text/plain")],
        problems: &[],
        handler: || get(metrics::show),
    },
    Route {
        method: "get",
        path: "/api/openapi.json",
        about: "This description",
        open: false,
        parameters: &[],
        body: None,
        answers: &[Answer::other(200, "OpenAPI 3.1", "application/json")],
        problems: &[],
        handler: || get(description),
    },
];

/// The routes of the API.
pub fn router() -> Router<Arc<Site>> {
    let all = ROUTES.iter().fold(Router::new(), |router, route| router.route(route.path, (route.handler)()));
    all.route("/api/{*rest}", axum::routing::any(nothing))
}

async fn nothing() -> Problem {
    Problem::not_found("there is nothing here").hint("GET /api/openapi.json tells what there is")
}

async fn pipelines(State(site): State<Arc<Site>>, _caller: Caller) -> Result<Json<shapes::Pipelines>, Problem> {
    let app = site.app.clone();
    let pipelines = tokio::task::spawn_blocking(move || app.pipelines()).await;
    let pipelines = pipelines.map_err(|error| crate::error::Error::bug(error.to_string()))?;
    Ok(Json(shapes::Pipelines { pipelines }))
}

async fn health(State(site): State<Arc<Site>>) -> Response {
    let word = if site.desk.stopping().is_cancelled() {
        "stopping"
    } else if site.app.journal.feed_end().await.is_err() {
        "no journal"
    } else {
        "ok"
    };
    let status = if word == "ok" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(shapes::Health { status: word.to_owned() })).into_response()
}

async fn description(_caller: Caller) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi::description().to_string()).into_response()
}

#[cfg(test)]
pub use openapi::description as openapi_description;
