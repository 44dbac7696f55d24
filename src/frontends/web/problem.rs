//! What the API answers when it cannot do what was asked: RFC 9457 problems. It says nothing of the machine's inside.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Exit};

/// The media type of problems.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// A problem.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// `urn:devo:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// A stable word.
    pub code: String,
    /// What happened.
    pub detail: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What is true of the run now, where the request came too late or twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<Current>,
}

/// How a run stands, in short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Current {
    /// The run's status.
    pub status: String,
    /// What it waits for: `approval`, `answer` or `budget`.
    pub waiting_for: Option<String>,
    /// The hash of the current plan.
    pub plan_hash: Option<String>,
    /// Its revision.
    pub revision: Option<u32>,
}

impl Current {
    /// Out of a run's document.
    pub fn of(document: &serde_json::Value) -> Self {
        let word = |pointer: &str| document.pointer(pointer).and_then(|value| value.as_str()).map(str::to_owned);
        let revision = document.pointer("/plan/revision").and_then(serde_json::Value::as_u64);
        Self {
            status: word("/status").unwrap_or_default(),
            waiting_for: word("/waiting_for/kind"),
            plan_hash: word("/plan/hash"),
            revision: revision.and_then(|revision| u32::try_from(revision).ok()),
        }
    }
}

impl Problem {
    /// A problem without a remedy.
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:devo:{code}"),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            code: code.to_owned(),
            detail: detail.into(),
            hint: None,
            current: None,
        }
    }

    /// 400.
    pub fn bad(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "this needs a valid token")
            .hint("send `Authorization: Bearer TOKEN`; the owner's is in the file `token` of the home")
    }

    /// 403.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// 404.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// The status that an error's code stands for.
fn status_of(error: &Error) -> StatusCode {
    match error.code.as_str() {
        "unknown_run" | "ambiguous_run" => StatusCode::NOT_FOUND,
        "superseded" | "not_waiting" | "finished" | "not_failed" | "too_many" | "queued" | "driven" => {
            StatusCode::CONFLICT
        }
        "draining" => StatusCode::SERVICE_UNAVAILABLE,
        "too_large" => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        if error.code == "disk_full" {
            return Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", "the daemon's disk is nearly full")
                .hint("new tasks are taken again when there is room; `devo gc` removes old workspaces");
        }
        if error.exit != Exit::Refused {
            tracing::error!(error = %error.to_text().trim_end(), "a request failed");
            return Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "this failed here, and not by your request; the daemon's log says why",
            );
        }
        let mut problem = Self::new(status_of(&error), &error.code, error.message);
        problem.hint = error.hint;
        problem
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"devo\""));
        }
        if status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(HeaderName::from_static("retry-after"), HeaderValue::from_static("10"));
        }
        response
    }
}
