//! A door for other programs: a POST whose body is signed with a shared secret submits a task. What runs, and on what, is
//! devo.yaml's to say; the asker gives words and inputs.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use hmac::{Hmac, KeyInit as _, Mac as _};
use schemars::JsonSchema;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::Sha256;

use super::Site;
use super::api::runs::hand_in;
use super::problem::Problem;
use crate::core::event::Who;
use crate::core::plan::sha256;

/// The header of the signature.
pub const SIGNATURE: &str = "x-devo-signature-256";
/// What forges call it.
const FORGES: &str = "x-hub-signature-256";

/// What a hook is told.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HookBody {
    /// What is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The pipeline's inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Map<String, Value>>,
    /// The same key twice is one run; without one, the same body twice is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Who is told, like `telegram:12345`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Vec<String>>,
}

/// What became of it; nothing more is told to whoever only knows a hook's secret.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Taken {
    /// The run.
    pub task_id: String,
}

/// Whether a signature is that of the body.
fn signed(secret: &str, body: &[u8], given: &str) -> bool {
    let Some(hex) = given.strip_prefix("sha256=").filter(|hex| hex.len() == 64 && hex.is_ascii()) else { return false };
    let bytes: Option<Vec<u8>> = (0..32).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()).collect();
    let Some(bytes) = bytes else { return false };
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(body);
    mac.verify_slice(&bytes).is_ok()
}

/// POST /hooks/{name}.
pub async fn knock(
    State(site): State<Arc<Site>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let given = [SIGNATURE, FORGES].iter().find_map(|name| headers.get(*name)).and_then(|value| value.to_str().ok());
    let config = site.config();
    let hook = config.web.hooks.get(&name);
    let secret = site.hook_secrets.get(&name);
    // A stranger does not learn which hooks there are.
    let refused = || Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "no hook of that name has this signature");
    let (Some(hook), Some(secret), Some(given)) = (hook, secret, given) else { return Err(refused()) };
    if !signed(secret.expose_secret(), &body, given) {
        return Err(refused());
    }
    let asked: HookBody = serde_json::from_slice(&body)
        .map_err(|error| Problem::bad("bad_json", format!("the body does not fit: {error}")))?;
    let own = asked.key.as_ref().map_or_else(|| sha256(&body), |key| sha256(key.as_bytes()));
    let mut task = Map::new();
    task.insert("pipeline".to_owned(), Value::String(hook.pipeline.clone()));
    if let Some(repo) = &hook.repo {
        task.insert("repo".to_owned(), Value::String(repo.clone()));
    }
    if let Some(text) = asked.task {
        task.insert("task".to_owned(), Value::String(text));
    }
    if let Some(inputs) = asked.inputs {
        task.insert("inputs".to_owned(), Value::Object(inputs));
    }
    if let Some(notify) = asked.notify {
        task.insert("notify".to_owned(), notify.into());
    }
    // Keys of one hook are no keys of another, or of people.
    let key = Some(format!("hook:{name}:{own}"));
    let who = Who { by: format!("hook {name}"), channel: "api".to_owned() };
    let submitted = hand_in(&site, &task, key, who).await?;
    let status = if submitted.new { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Json(Taken { task_id: submitted.run.to_string() })).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secrets_own_signature_fits() {
        // RFC 4231, test case 2.
        let right = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        let body = b"what do ya want for nothing?";
        assert!(signed("Jefe", body, right) && signed("Jefe", body, &right.replace("bf60", "BF60")));
        for bad in ["", "sha256=", &right[..70], &right.replace("5bdc", "5bdd"), &right.replace("5b", "zz")] {
            assert!(!signed("Jefe", body, bad), "{bad}");
        }
        assert!(!signed("jefe", body, right) && !signed("Jefe", b"other", right));
        assert!(!signed("Jefe", body, &format!("sha256={}", "é".repeat(32))));
    }
}
