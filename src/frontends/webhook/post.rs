//! One signed POST. It does not know what it tells.

use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use sha2::Sha256;

use super::super::ringer::Answer;
use crate::error::Error;

/// The header of the signature: `sha256=` and the hex digits of the body's HMAC, as forges do it.
const SIGNATURE: &str = "x-devo-signature-256";
/// How long the receiver may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long the way to it may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Posts to one address.
pub struct Sender {
    client: reqwest::Client,
    url: reqwest::Url,
    secret: SecretString,
}

impl Sender {
    /// For this address and secret.
    ///
    /// # Errors
    /// It is no address.
    pub fn new(url: &str, secret: SecretString) -> Result<Self, Error> {
        // Another part may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = reqwest::Url::parse(url)
            .map_err(|error| Error::refused("webhook", format!("notify.webhook.url is no address: {error}")))?;
        let client = reqwest::Client::builder()
            // What is signed for one address is not carried to another.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(TIMEOUT)
            .user_agent(concat!("devo/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Error::machine("webhook", "cannot make an HTTP client", &error.without_url()))?;
        Ok(Self { client, url, secret })
    }

    /// Posts a body.
    pub async fn post(&self, body: &Value) -> Answer {
        let body = body.to_string();
        let request = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header(SIGNATURE, signature(self.secret.expose_secret(), body.as_bytes()))
            .body(body);
        match request.send().await {
            Ok(reply) => {
                let status = reply.status();
                let seconds = reply.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
                let why = format!("it answered {status}");
                match status.as_u16() {
                    200..=299 => Answer::Taken,
                    408 | 425 | 429 | 500..=599 if seconds.is_some() => {
                        Answer::Away { why, unsure: false, after: seconds.map(Duration::from_secs) }
                    }
                    // It is there, and may only stumble over this one.
                    408 | 425 | 429 | 500..=599 => Answer::Later(why),
                    _ => Answer::TurnedDown(why),
                }
            }
            // The address may hold a token of the receiver's: it is not shown.
            Err(error) => {
                let unsure = !error.is_connect();
                let error = Error::machine("webhook", "no answer", &error.without_url());
                Answer::Away { why: error.causes.join(": "), unsure, after: None }
            }
        }
    }
}

fn signature(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(body);
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_standard() {
        // RFC 4231, test case 2.
        let wanted = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(signature("Jefe", b"what do ya want for nothing?"), wanted);
    }

    #[tokio::test]
    async fn nobody_there_is_told_apart_from_not_knowing() {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let sender = Sender::new(&format!("http://{gone}/token-in-path"), "secret".into()).unwrap();
        let answer = sender.post(&Value::Null).await;
        assert!(
            matches!(&answer, Answer::Away { unsure: false, why, .. } if !why.contains("token-in-path")),
            "{answer:?}"
        );
    }
}
