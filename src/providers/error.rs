//! Why a model call failed: typed, with what to do about it. Never holds a request's payload or a key.

use std::time::Duration;

use serde_json::Value;

use super::http::{HttpReply, TransportError};
use crate::core::budget::Usage;
use crate::core::failure::Failure;

/// The longest message kept, in characters.
const MESSAGE_MAX: usize = 500;
/// The longest delay believed; a server that asks for more is treated as asking for this.
const DELAY_MAX: Duration = Duration::from_secs(24 * 3600);

/// What kind of failure it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no key for the provider.
    NoKey,
    /// The key is not accepted, or lacks a permission.
    Auth,
    /// Nothing is left to spend: until tomorrow (`daily`), or until somebody pays.
    Quota {
        /// Whether a day's allowance is used up.
        daily: bool,
    },
    /// Too many requests or tokens in a short time.
    RateLimited,
    /// The provider cannot answer now (5xx, 529).
    Overloaded,
    /// The conversation is larger than the model's window.
    ContextTooLong,
    /// The model or a filter declines.
    Refused {
        /// The provider's word for the reason.
        category: Option<String>,
    },
    /// A whole reply that cannot be used: a broken tool call, no content.
    Malformed,
    /// The provider does not accept the request as it is.
    BadRequest,
    /// The endpoint does not know the model (or the path).
    NotFound,
    /// The reply has no proper end.
    Cut,
    /// Something else than the provider's format came back (a gateway's page, broken JSON).
    Garbled,
    /// Silence for too long.
    Timeout,
    /// No connection, or a broken one.
    Transport,
    /// The request or the reply is larger than is allowed.
    TooLarge,
    /// The endpoint answers with a redirect, which is not followed: the key would travel along.
    Redirected,
    /// The cassette cannot be used, or cannot be written.
    Cassette,
    /// The cassette has no such request.
    CassetteMismatch,
    /// The caller gave up.
    Cancelled,
}

impl ErrorKind {
    /// The kind that an HTTP status means where the body says nothing better.
    pub(super) fn of_status(status: u16) -> Self {
        match status {
            300..=399 => Self::Redirected,
            401 | 403 => Self::Auth,
            402 => Self::Quota { daily: false },
            404 => Self::NotFound,
            408 | 504 => Self::Timeout,
            413 => Self::TooLarge,
            429 => Self::RateLimited,
            409 | 425 | 500..=599 => Self::Overloaded,
            _ => Self::BadRequest,
        }
    }
}

/// Why a model call failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{provider}: {}", .detail.message)]
pub struct ProviderError {
    /// What kind of failure it is.
    pub kind: ErrorKind,
    /// The provider's name.
    pub provider: String,
    detail: Box<Detail>,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Detail {
    message: String,
    status: Option<u16>,
    request_id: Option<String>,
    retry_after: Option<Duration>,
    retryable: Option<bool>,
    usage: Option<Usage>,
    hint: Option<String>,
}

impl ProviderError {
    /// An error; the message is cut and freed of control characters.
    pub fn new(provider: &str, kind: ErrorKind, message: impl AsRef<str>) -> Self {
        let detail = Box::new(Detail { message: tidy(message.as_ref(), MESSAGE_MAX), ..Detail::default() });
        Self { kind, provider: provider.to_owned(), detail }
    }

    /// An error whose message is ours and has lines (a difference between texts).
    pub(super) fn verbatim(provider: &str, kind: ErrorKind, message: String) -> Self {
        let detail = Box::new(Detail { message, ..Detail::default() });
        Self { kind, provider: provider.to_owned(), detail }
    }

    /// Adds what the answer's status and headers say: status, request id, delay, whether to try again.
    #[must_use]
    pub(super) fn with_reply(mut self, reply: &HttpReply) -> Self {
        self.detail.status = Some(reply.status);
        self.detail.request_id = reply.request_id();
        self.detail.retry_after = self.detail.retry_after.or_else(|| delay(reply));
        if reply.status >= 400 {
            self.detail.retryable = match reply.header("x-should-retry") {
                Some("true") => Some(true),
                Some("false") => Some(false),
                _ => None,
            };
        }
        self
    }

    /// Adds the delay that the provider asks for.
    #[must_use]
    pub(super) fn after(mut self, delay: Option<Duration>) -> Self {
        self.detail.retry_after = delay.map(|delay| delay.min(DELAY_MAX)).or(self.detail.retry_after);
        self
    }

    /// Adds what the failed call used all the same.
    #[must_use]
    pub(super) fn used(mut self, usage: Usage) -> Self {
        self.detail.usage = (usage != Usage::default()).then_some(usage);
        self
    }

    /// Sets what to do next, where the kind's own advice is not the best.
    #[must_use]
    pub(super) fn advise(mut self, hint: impl Into<String>) -> Self {
        self.detail.hint = Some(hint.into());
        self
    }

    /// The same error with its message passed through `mask`.
    #[must_use]
    pub fn masked(mut self, mask: impl Fn(&str) -> String) -> Self {
        self.detail.message = mask(&self.detail.message);
        self
    }

    /// What happened, without the provider's name; a lower-case fragment or the provider's own words.
    pub fn message(&self) -> &str {
        &self.detail.message
    }

    /// The HTTP status, where there was one.
    pub fn status(&self) -> Option<u16> {
        self.detail.status
    }

    /// The provider's request id, for support.
    pub fn request_id(&self) -> Option<&str> {
        self.detail.request_id.as_deref()
    }

    /// What the failed call used (a refusal and a cut reply are paid for); `None` where nothing is known.
    pub fn usage(&self) -> Option<Usage> {
        self.detail.usage
    }

    /// How long the provider wants us to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        self.detail.retry_after
    }

    /// Whether the same call may succeed later with nothing changed.
    pub fn retryable(&self) -> bool {
        use ErrorKind as K;
        let by_kind = match self.kind {
            K::RateLimited | K::Overloaded | K::Timeout | K::Transport | K::Cut | K::Garbled | K::Malformed => true,
            K::Cancelled => true,
            K::NoKey | K::Auth | K::Quota { .. } | K::ContextTooLong | K::Refused { .. } | K::BadRequest => false,
            K::NotFound | K::TooLarge | K::Redirected | K::Cassette | K::CassetteMismatch => false,
        };
        // A server's word cannot make a spent quota or a bad key worth another try.
        match (&self.kind, self.detail.retryable) {
            (K::Auth | K::Quota { .. }, _) | (_, None) => by_kind,
            (_, Some(said)) => said,
        }
    }

    /// A stable identifier for programs.
    pub fn code(&self) -> &'static str {
        match self.kind {
            ErrorKind::NoKey => "no_key",
            ErrorKind::Auth => "bad_key",
            ErrorKind::Quota { .. } => "quota",
            ErrorKind::RateLimited => "rate_limited",
            ErrorKind::Overloaded => "overloaded",
            ErrorKind::ContextTooLong => "context_too_long",
            ErrorKind::Refused { .. } => "refused",
            ErrorKind::Malformed => "malformed_reply",
            ErrorKind::BadRequest => "bad_request",
            ErrorKind::NotFound => "model_not_found",
            ErrorKind::Cut => "cut_reply",
            ErrorKind::Garbled => "garbled_reply",
            ErrorKind::Timeout => "provider_timeout",
            ErrorKind::Transport => "network",
            ErrorKind::TooLarge => "too_large",
            ErrorKind::Redirected => "redirected",
            ErrorKind::Cassette => "cassette",
            ErrorKind::CassetteMismatch => "cassette_mismatch",
            ErrorKind::Cancelled => "cancelled",
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        if let Some(hint) = &self.detail.hint {
            return Some(hint.clone());
        }
        let access = super::provider(&self.provider).ok().map(super::Provider::access);
        let key = access.map_or("the key", |access| access.key_vars[0]);
        let base = access.map_or("the base URL", |access| access.base_var);
        Some(match &self.kind {
            ErrorKind::NoKey => {
                format!("set {key} (or {key}_FILE=/path/to/file), then `devo retry RUN`")
            }
            ErrorKind::Auth => format!("check {key}: it may be wrong, expired or without access to this model"),
            ErrorKind::Quota { daily: true } => "wait until tomorrow or raise the quota, then `devo retry RUN`".into(),
            ErrorKind::Quota { daily: false } => {
                "add credit or raise the spend limit at the provider, then `devo retry RUN`".into()
            }
            ErrorKind::RateLimited | ErrorKind::Overloaded | ErrorKind::Cut | ErrorKind::Timeout => {
                "the provider is busy or unsteady; the run can go on later with `devo resume RUN`".into()
            }
            ErrorKind::Transport => format!("check the network, a proxy and {base}, then `devo resume RUN`"),
            ErrorKind::Garbled => format!("something between here and the provider answered; check {base} and proxies"),
            ErrorKind::Redirected => format!("set {base} to the final address: redirects are not followed with a key"),
            ErrorKind::NotFound => format!("check the model's id in devo.yaml (`roles`) and {base}"),
            ErrorKind::ContextTooLong => "split the task, or give the role a model with a larger window".into(),
            ErrorKind::Refused { .. } => "put the task in other words, or give the role another model".into(),
            ErrorKind::TooLarge => "split the task: the conversation or the reply is too large to send".into(),
            ErrorKind::BadRequest | ErrorKind::Malformed | ErrorKind::Cassette => return None,
            ErrorKind::CassetteMismatch => {
                "the prompts, tools or inputs are not those of the recording; record again with `--record FILE`".into()
            }
            ErrorKind::Cancelled => return None,
        })
    }

    /// As data for the journal.
    pub fn to_failure(&self) -> Failure {
        let mut message = self.to_string();
        if let Some(id) = self.request_id() {
            message.push_str(&format!(" (request {id})"));
        }
        Failure {
            code: self.code().to_owned(),
            message,
            hint: self.hint(),
            retryable: self.retryable(),
            feedback: None,
        }
    }

    /// What a transport's failure means for a call.
    pub(super) fn of_transport(provider: &str, error: TransportError) -> Self {
        let kind = match &error {
            TransportError::Connect(_) => ErrorKind::Transport,
            TransportError::Timeout { .. } => ErrorKind::Timeout,
            TransportError::Cut(_) => ErrorKind::Cut,
            TransportError::TooLarge { .. } => ErrorKind::TooLarge,
            TransportError::NoKey(_) => ErrorKind::NoKey,
            TransportError::Setup { .. } => ErrorKind::BadRequest,
            TransportError::Cassette(_) => ErrorKind::Cassette,
            TransportError::Mismatch(_) => ErrorKind::CassetteMismatch,
        };
        let hint = error.hint();
        let made = match &error {
            TransportError::Mismatch(text) => Self::verbatim(provider, kind, text.clone()),
            _ => Self::new(provider, kind, error.to_string()),
        };
        match hint {
            Some(hint) => made.advise(hint),
            None => made,
        }
    }
}

/// The error of an answer whose status or body is bad: `message` is the provider's, if it gave one.
pub(super) fn of_reply(provider: &str, kind: ErrorKind, message: Option<&str>, reply: &HttpReply) -> ProviderError {
    let place = reply.header("location").and_then(|to| reqwest::Url::parse(to).ok());
    let text = match (message, &kind) {
        (Some(message), _) => format!("{message} (HTTP {})", reply.status),
        (None, ErrorKind::Redirected) => match place.as_ref().and_then(reqwest::Url::host_str) {
            Some(host) => format!("the endpoint redirects to {host} (HTTP {})", reply.status),
            None => format!("the endpoint answers with a redirect (HTTP {})", reply.status),
        },
        (None, _) if reply.body.trim().is_empty() => format!("an empty answer with HTTP {}", reply.status),
        (None, _) => {
            let kind = reply.header("content-type").unwrap_or("no content type");
            format!("an answer that is not this provider's, with HTTP {} and {kind}", reply.status)
        }
    };
    ProviderError::new(provider, kind, text).with_reply(reply)
}

/// The delay that an answer's headers ask for. A date counts from the answer's own `date`, so no clock is needed.
fn delay(reply: &HttpReply) -> Option<Duration> {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    if let Some(ms) = reply.header("retry-after-ms").and_then(number) {
        return seconds(ms / 1000.0);
    }
    let text = reply.header("retry-after")?;
    if let Some(value) = number(text) {
        return seconds(value);
    }
    let at = |text: &str| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok();
    let from = at(reply.header("date")?)?;
    seconds(at(text)?.duration_since(from).as_secs_f64())
}

/// Seconds as a duration; none for negative and absurd numbers, long ones cut to a day.
pub(super) fn seconds(value: f64) -> Option<Duration> {
    if value.is_nan() || value < 0.0 { None } else { Some(Duration::from_secs_f64(value.min(DELAY_MAX.as_secs_f64()))) }
}

/// A body as JSON, where it is.
pub(super) fn json(body: &str) -> Option<Value> {
    serde_json::from_str(body.trim_start_matches('\u{feff}')).ok()
}

/// One line without control characters, cut to `max` characters.
fn tidy(text: &str, max: usize) -> String {
    let mut out = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    match out.char_indices().nth(max) {
        Some((at, _)) => {
            out.truncate(at);
            out.push('…');
            out
        }
        None => out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(headers: &[(&str, &str)]) -> HttpReply {
        HttpReply {
            status: 429,
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            body: String::new(),
        }
    }

    #[test]
    fn delays_come_in_three_forms() {
        type Case<'a> = (&'a [(&'a str, &'a str)], Option<f64>);
        let cases: &[Case<'_>] = &[
            (&[("retry-after", "7")], Some(7.0)),
            (&[("retry-after", "60"), ("retry-after-ms", "1500")], Some(1.5)),
            (
                &[("retry-after", "Wed, 21 Oct 2026 07:28:30 GMT"), ("date", "Wed, 21 Oct 2026 07:28:00 GMT")],
                Some(30.0),
            ),
            (&[("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT")], None),
            (&[("retry-after", "-4")], None),
            (&[("retry-after", "NaN")], None),
            (&[("retry-after", "1e300")], Some(86400.0)),
            (&[], None),
        ];
        for (headers, wanted) in cases {
            assert_eq!(delay(&reply(headers)).map(|delay| delay.as_secs_f64()), *wanted, "{headers:?}");
        }
    }

    #[test]
    fn the_server_may_overrule_but_not_about_money_and_keys() {
        let said = reply(&[("x-should-retry", "true")]);
        assert!(ProviderError::new("gemini", ErrorKind::BadRequest, "x").with_reply(&said).retryable());
        assert!(!ProviderError::new("gemini", ErrorKind::Auth, "x").with_reply(&said).retryable());
        let said = reply(&[("x-should-retry", "false")]);
        assert!(!ProviderError::new("gemini", ErrorKind::Overloaded, "x").with_reply(&said).retryable());
    }

    #[test]
    fn messages_are_one_short_line_and_hints_name_the_variable() {
        let error = ProviderError::new("gemini", ErrorKind::Auth, format!("a\u{1b}[31m\n b {}", "x".repeat(9000)));
        assert!(error.message().starts_with("a [31m b x"), "{}", error.message());
        assert!(error.message().chars().count() <= MESSAGE_MAX + 1);
        let failure = error.to_failure();
        assert_eq!((failure.code.as_str(), failure.retryable), ("bad_key", false));
        assert!(failure.hint.unwrap().contains("GEMINI_API_KEY"));
        assert!(failure.message.starts_with("gemini: "));
    }
}
