//! The Bot API over HTTP: a method, its parameters, its answer. It does not know what is said, nor to whom.
//!
//! The token is a part of every address: no error, log or `Debug` of this module shows one.

use std::fmt;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use super::html::line;
use crate::app::BotAccess;
use crate::core::failure::chain;
use crate::error::Error;
use crate::secrets::Masker;

/// The largest answer that is read, in bytes: 100 updates are far smaller.
const ANSWER_MAX: usize = 32 * 1024 * 1024;
/// For the connection, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// For everything but polls and files.
const PATIENCE: Duration = Duration::from_secs(30);
/// For a file on its way.
const FILE_PATIENCE: Duration = Duration::from_secs(300);
/// How long Telegram holds a poll open, in seconds; 50 is the most.
pub const POLL_S: u64 = 50;
/// Above [`POLL_S`], so that a dead connection is noticed.
const POLL_PATIENCE: Duration = Duration::from_secs(POLL_S + 15);

/// Why a method was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// Telegram says no.
    #[error("Telegram answers {code}: {description}")]
    Refused {
        /// Like an HTTP status.
        code: u16,
        /// Its words.
        description: String,
        /// Seconds to wait, where that is the reason.
        retry_after: Option<u64>,
        /// The supergroup that the group has become, where that is the reason.
        moved_to: Option<i64>,
    },
    /// It was not sent.
    #[error("Telegram cannot be reached: {0}")]
    Unsent(String),
    /// It was sent, and whether it was done is unknown.
    #[error("Telegram did not answer: {0}")]
    Unknown(String),
}

impl ApiError {
    /// Whether the token itself is refused, so that nothing can ever work.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Refused { code: 401 | 404, .. })
    }

    /// Whether Telegram refused with these words.
    pub fn says(&self, words: &str) -> bool {
        matches!(self, Self::Refused { description, .. } if description.to_ascii_lowercase().contains(words))
    }
}

/// A bot's way to Telegram.
pub struct Api {
    client: reqwest::Client,
    base: String,
    token: SecretString,
    masker: Masker,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bot API at {}", self.base)
    }
}

impl Api {
    /// A client that sends the token to the configured address and nowhere else.
    ///
    /// # Errors
    /// The HTTPS client cannot start.
    pub fn new(access: &BotAccess) -> Result<Self, Error> {
        // Fails if one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("devo/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT);
        if access.plain {
            // No certificates are needed, and a bare machine has none.
            builder = builder.tls_certs_only([]);
        }
        if access.loopback {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| {
            Error::machine("https", "the HTTPS client cannot start", &error.without_url())
                .hint("install the system's root certificates (package `ca-certificates`)")
        })?;
        let (base, token, masker) = (access.address.clone(), access.token.clone(), access.masker.clone());
        Ok(Self { client, base, token, masker })
    }

    fn address(&self, folder: &str, rest: &str) -> String {
        format!("{}{folder}/bot{}/{rest}", self.base, self.token.expose_secret())
    }

    /// Calls a method; the answer is its `result`.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn call(&self, method: &str, parameters: &Value) -> Result<Value, ApiError> {
        let patience = if method == "getUpdates" { POLL_PATIENCE } else { PATIENCE };
        let body = serde_json::to_vec(parameters).expect("a JSON value can be written");
        self.post(method, "application/json".to_owned(), body, patience).await
    }

    /// Sends a file with a method's text parameters.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn send_document(&self, fields: &[(&str, String)], name: &str, bytes: &[u8]) -> Result<Value, ApiError> {
        let boundary = format!("devo-{}", uuid::Uuid::now_v7().simple());
        let body = multipart(&boundary, fields, name, bytes);
        let kind = format!("multipart/form-data; boundary={boundary}");
        self.post("sendDocument", kind, body, FILE_PATIENCE).await
    }

    /// Fetches a file of at most `max` bytes by the path that `getFile` gave.
    ///
    /// # Errors
    /// See [`ApiError`]; a file that is too large is refused with 413.
    pub async fn download(&self, path: &str, max: usize) -> Result<Vec<u8>, ApiError> {
        let plain = path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        if !plain || path.contains(['?', '#', '%', '\\']) {
            return Err(ApiError::Unknown("the file's path is none".to_owned()));
        }
        let send = self.client.get(self.address("/file", path)).timeout(FILE_PATIENCE).send().await;
        let response = send.map_err(|error| self.broken(error))?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(ApiError::Unknown(format!("HTTP {status} instead of the file")));
        }
        self.body(response, max).await
    }

    async fn post(&self, method: &str, kind: String, body: Vec<u8>, patience: Duration) -> Result<Value, ApiError> {
        let request = self.client.post(self.address("", method)).timeout(patience).header("content-type", kind);
        let response = request.body(body).send().await.map_err(|error| self.broken(error))?;
        let status = response.status().as_u16();
        let body = self.body(response, ANSWER_MAX).await?;
        let Ok(mut answer) = serde_json::from_slice::<Value>(&body) else {
            return Err(ApiError::Unknown(format!("HTTP {status} without an answer of the Bot API")));
        };
        if answer["ok"] == true {
            return Ok(answer["result"].take());
        }
        let code = answer["error_code"].as_u64().and_then(|code| u16::try_from(code).ok());
        let Some(code) = code.filter(|code| *code < 500) else {
            return Err(ApiError::Unknown(format!("HTTP {status}")));
        };
        let description = self.masker.mask(answer["description"].as_str().unwrap_or("no reason given"));
        Err(ApiError::Refused {
            code,
            description: line(&description, 300),
            retry_after: answer["parameters"]["retry_after"].as_u64(),
            moved_to: answer["parameters"]["migrate_to_chat_id"].as_i64(),
        })
    }

    async fn body(&self, mut response: reqwest::Response, max: usize) -> Result<Vec<u8>, ApiError> {
        let mut body: Vec<u8> = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.broken(error))? {
            if body.len() + chunk.len() > max {
                let description = format!("the answer is larger than {max} bytes");
                return Err(ApiError::Refused { code: 413, description, retry_after: None, moved_to: None });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// An error of the HTTP client with its causes and without the address, which holds the token.
    fn broken(&self, error: reqwest::Error) -> ApiError {
        let unsent = error.is_connect() || error.is_builder();
        let text = chain(&error.without_url());
        let text = line(&self.masker.mask(&text), 300);
        if unsent { ApiError::Unsent(text) } else { ApiError::Unknown(text) }
    }
}

/// The body of a form with a file in the field `document`.
fn multipart(boundary: &str, fields: &[(&str, String)], name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(bytes.len() + 1024);
    for (field, value) in fields {
        let part = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{field}\"\r\n\r\n{value}\r\n");
        body.extend_from_slice(part.as_bytes());
    }
    let name: String = name
        .chars()
        .map(|char| if char.is_ascii_alphanumeric() || "._-".contains(char) { char } else { '_' })
        .collect();
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"document\"; filename=\"{name}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(bytes);
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_holds_its_fields_and_a_harmless_name() {
        let body = multipart("B", &[("chat_id", "5".to_owned())], "pl\"an\r\n.md", b"x\r\n--y");
        assert_eq!(
            String::from_utf8(body).unwrap(),
            "--B\r\nContent-Disposition: form-data; name=\"chat_id\"\r\n\r\n5\r\n\
             --B\r\nContent-Disposition: form-data; name=\"document\"; filename=\"pl_an__.md\"\r\n\
             Content-Type: application/octet-stream\r\n\r\nx\r\n--y\r\n--B--\r\n"
        );
    }

    #[tokio::test]
    async fn no_error_shows_the_token() {
        let access = BotAccess {
            address: "http://127.0.0.1:1".to_owned(),
            plain: true,
            loopback: true,
            token: "123456:SECRET-token".to_owned().into(),
            ..BotAccess::default()
        };
        let api = Api::new(&access).unwrap();
        let error = api.call("getMe", &Value::Null).await.unwrap_err();
        assert!(matches!(error, ApiError::Unsent(_)), "{error:?}");
        let shown = format!("{error} {error:?} {api:?} {access:?}");
        assert!(!shown.contains("SECRET"), "{shown}");
        for path in ["../x", "a//b", "a?b", "a/%2e%2e/b"] {
            assert!(api.download(path, 1).await.is_err());
        }
    }
}
