//! Requests and replies as values, and the transport that carries them. Knows keys and addresses, no provider's format.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{HeaderName, HeaderValue};
use secrecy::ExposeSecret as _;
use serde_json::Value;

use super::endpoint::Endpoint;
use super::{Access, Provider};
use crate::core::failure::chain;

/// An HTTP verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Without a body.
    Get,
    /// With a JSON body.
    Post,
}

impl Method {
    /// In capitals, as on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
        }
    }
}

/// A request without address and key: both belong to the transport.
#[derive(Clone, PartialEq)]
pub struct HttpRequest {
    /// The verb.
    pub method: Method,
    /// Path and query, appended to the base URL; begins with `/`.
    pub path: String,
    /// Headers besides the key and the content type; names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// The JSON body; [`Value::Null`] for none.
    pub body: Value,
}

impl fmt::Debug for HttpRequest {
    /// Without the body: it holds a whole conversation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method.as_str(), self.path)
    }
}

/// A whole answer.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpReply {
    /// The status.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, event streams raw; bytes that are not UTF-8 are replaced.
    pub body: String,
}

impl HttpReply {
    /// The first header of that (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The provider's id of the call.
    pub fn request_id(&self) -> Option<String> {
        ["request-id", "x-request-id"].iter().find_map(|name| self.header(name)).map(str::to_owned)
    }
}

impl fmt::Debug for HttpReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP {} with {} bytes", self.status, self.body.len())
    }
}

/// What is waited for until there is a connection.
const CONNECTING: &str = "connecting";

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection, or it broke before the answer began.
    #[error("{0}")]
    Connect(String),
    /// Nothing came for a while.
    #[error("no answer: {what} took longer than {} s", .limit.as_secs())]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The connection broke within the answer.
    #[error("the answer broke off: {0}")]
    Cut(String),
    /// The answer is larger than is read.
    #[error("the answer is larger than {} MB", .limit / 1_000_000)]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The provider needs a key and there is none; the variable that would hold it.
    #[error("there is no key: {0} is not set")]
    NoKey(&'static str),
    /// The transport cannot be made.
    #[error("{message}")]
    Setup {
        /// What is wrong.
        message: String,
        /// How to mend it.
        hint: String,
    },
    /// The cassette cannot be read or written.
    #[error(transparent)]
    Cassette(#[from] super::cassette::CassetteError),
    /// The cassette has no such request; how it differs from the nearest.
    #[error("{0}")]
    Mismatch(String),
}

impl TransportError {
    /// Whether the request was on its way: the provider may have answered, and charges for it.
    pub fn after_sending(&self) -> bool {
        match self {
            Self::Timeout { what, .. } => *what != CONNECTING,
            Self::Cut(_) | Self::TooLarge { .. } => true,
            Self::Connect(_) | Self::NoKey(_) | Self::Setup { .. } | Self::Cassette(_) | Self::Mismatch(_) => false,
        }
    }

    /// What a person can do, where it is not plain from the provider alone.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Setup { hint, .. } => Some(hint.clone()),
            Self::Cassette(error) => Some(error.hint()),
            _ => None,
        }
    }
}

/// Carries a request and brings the whole answer, whatever its status.
#[async_trait]
pub trait Transport: Send + Sync + fmt::Debug {
    /// Sends once.
    async fn send(&self, request: HttpRequest) -> Result<HttpReply, TransportError>;

    /// Whether somebody else is at the other end; a recording does not mind being asked again at once.
    fn live(&self) -> bool {
        true
    }
}

/// Limits of the network transport.
#[derive(Debug, Clone, Copy)]
pub struct HttpLimits {
    /// For the connection, TLS included.
    pub connect: Duration,
    /// The longest silence, before and within the answer. There is no limit in all: long thinking streams.
    pub idle: Duration,
    /// The largest answer in bytes, after decompression.
    pub body: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), idle: Duration::from_secs(90), body: 64_000_000 }
    }
}

/// The network, bound to one endpoint and its key.
pub struct HttpTransport {
    client: reqwest::Client,
    base: String,
    key: Option<(HeaderName, HeaderValue)>,
    limits: HttpLimits,
}

impl fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpTransport to {}", self.base)
    }
}

impl HttpTransport {
    /// A transport that sends to this endpoint only, with its key. Fails without a key where the provider needs one.
    pub fn new(provider: &dyn Provider, endpoint: &Endpoint, limits: HttpLimits) -> Result<Self, TransportError> {
        let access = provider.access();
        let key = key_header(access, endpoint)?;
        // Fails if one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("devo/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(limits.connect)
            .read_timeout(limits.idle);
        if endpoint.is_plain() {
            // No certificates are needed, and a bare machine has none.
            builder = builder.tls_certs_only([]);
        }
        if endpoint.is_loopback() {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| TransportError::Setup {
            message: format!("the HTTPS client cannot start: {}", chain(&error.without_url())),
            hint: "install the system's root certificates (package `ca-certificates`)".into(),
        })?;
        Ok(Self { client, base: endpoint.base_url().to_owned(), key, limits })
    }

    async fn body(&self, mut response: reqwest::Response) -> Result<String, TransportError> {
        let mut body: Vec<u8> = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.broken(error, true))? {
            if body.len() + chunk.len() > self.limits.body {
                return Err(TransportError::TooLarge { limit: self.limits.body });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(String::from_utf8(body).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn broken(&self, error: reqwest::Error, in_body: bool) -> TransportError {
        if error.is_timeout() && error.is_connect() {
            TransportError::Timeout { what: CONNECTING, limit: self.limits.connect }
        } else if error.is_timeout() {
            TransportError::Timeout { what: "the next bytes", limit: self.limits.idle }
        } else if in_body {
            TransportError::Cut(chain(&error.without_url()))
        } else {
            TransportError::Connect(chain(&error.without_url()))
        }
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn send(&self, request: HttpRequest) -> Result<HttpReply, TransportError> {
        let url = format!("{}{}", self.base, request.path);
        let mut builder = match request.method {
            Method::Get => self.client.get(url),
            Method::Post => self
                .client
                .post(url)
                .header("content-type", "application/json")
                .body(serde_json::to_vec(&request.body).expect("a JSON value can be written")),
        };
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        if let Some((name, value)) = &self.key {
            builder = builder.header(name, value.clone());
        }
        let response = builder.send().await.map_err(|error| self.broken(error, false))?;
        let status = response.status().as_u16();
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = response.headers().iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        Ok(HttpReply { status, headers, body: self.body(response).await? })
    }
}

/// The header that carries the key, marked so that no log prints it.
fn key_header(access: &Access, endpoint: &Endpoint) -> Result<Option<(HeaderName, HeaderValue)>, TransportError> {
    let Some(key) = endpoint.key() else {
        let needed = !access.keyless_elsewhere || endpoint.base_url() == access.base_url;
        return if needed { Err(TransportError::NoKey(access.key_vars[0])) } else { Ok(None) };
    };
    let text = zeroizing(access.key_prefix, key.expose_secret());
    let mut value = HeaderValue::from_str(text.expose_secret()).map_err(|_| TransportError::Setup {
        message: "the key has characters that no key has".into(),
        hint: format!("check {}: one line, no spaces or quotes", access.key_vars[0]),
    })?;
    value.set_sensitive(true);
    Ok(Some((HeaderName::from_static(access.key_header), value)))
}

fn zeroizing(prefix: &str, key: &str) -> secrecy::SecretString {
    format!("{prefix}{key}").into()
}
