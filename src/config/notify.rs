//! Settings of notifications beside the chats: who is told when a plan is ready, a question is asked, a run fails or is done.

use schemars::JsonSchema;
use serde::Deserialize;

/// Who is told.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Notify {
    /// A program that is told by a signed POST.
    #[serde(default)]
    pub webhook: Option<Webhook>,
}

/// A program that is told by a signed POST.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where it listens: http or https.
    pub url: String,
    /// Name of the environment variable with the shared secret (or with `_FILE`, or a systemd credential of that name).
    pub secret: String,
    /// Whether it is told of every run; otherwise only of those whose task says `notify: [webhook]`.
    #[serde(default = "yes")]
    pub all: bool,
}

fn yes() -> bool {
    true
}

/// What the schema cannot say: where, a stable word, what, and what to do.
pub(super) fn check(notify: &Notify) -> Vec<(String, &'static str, String, &'static str)> {
    let mut wrong = Vec::new();
    let Some(webhook) = &notify.webhook else { return wrong };
    let rest = webhook.url.strip_prefix("https://").or_else(|| webhook.url.strip_prefix("http://"));
    if rest.is_none_or(|rest| {
        rest.is_empty() || rest.starts_with('/') || rest.split('/').next().unwrap_or("").contains('@')
    }) {
        let message = "`url` must be like https://example.org/devo, without a user or password".to_owned();
        wrong.push((
            "/notify/webhook/url".to_owned(),
            "wrong_value",
            message,
            "the secret goes under `secret`, by name",
        ));
    }
    let plain = webhook.secret.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !plain || webhook.secret.is_empty() {
        let message = "`secret` is the name of an environment variable, not the secret itself".to_owned();
        wrong.push(("/notify/webhook/secret".to_owned(), "bad_name", message, "like `secret: DEVO_WEBHOOK_SECRET`"));
    }
    wrong
}
