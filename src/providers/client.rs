//! Calls one model: sends, tries again with patience, and says beforehand what a call may cost. Knows no run and no
//! step.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::endpoint::Endpoint;
use super::error::{ErrorKind, ProviderError};
use super::http::{HttpLimits, HttpTransport, Transport};
use super::{ChatRequest, ModelCard, Provider, Reply};
use crate::core::budget::Usage;
use crate::secrets::Masker;

/// A reply that claims to have used so many times the model's window is not believed.
const ABSURD: u64 = 10;

/// How often and how long a call is tried.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Tries in all.
    pub attempts: u32,
    /// Tries in all while the replies arrive but cannot be used: asking the same again rarely helps for long.
    pub malformed: u32,
    /// The first wait; each later one is twice as long.
    pub first: Duration,
    /// The longest wait of our own; the provider's own word may be longer.
    pub longest: Duration,
    /// All waits together. A wait that would go beyond is not begun: the error is returned, and the caller may park.
    pub total: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 6,
            malformed: 3,
            first: Duration::from_secs(1),
            longest: Duration::from_secs(30),
            total: Duration::from_secs(120),
        }
    }
}

/// Waiting and chance, so that tests need neither.
#[async_trait]
pub trait Sleeper: Send + Sync {
    /// Waits.
    async fn sleep(&self, time: Duration);

    /// A number from 0 to 1, to spread the tries of many callers.
    fn chance(&self) -> f64;
}

/// The real thing.
#[derive(Debug)]
pub struct TokioSleeper;

#[async_trait]
impl Sleeper for TokioSleeper {
    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn chance(&self) -> f64 {
        fastrand::f64()
    }
}

/// What an observer is told before a wait.
#[derive(Debug)]
pub struct Retrying<'a> {
    /// Why the last try failed.
    pub error: &'a ProviderError,
    /// How long the wait is.
    pub wait: Duration,
    /// The try that failed, from 1.
    pub attempt: u32,
    /// Tries in all.
    pub attempts: u32,
}

impl fmt::Display for Retrying<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wait = self.wait.as_secs_f64();
        let Retrying { error, attempt, attempts, .. } = self;
        write!(f, "trying again in {wait:.1} s ({}, try {attempt} of {attempts}): {error}", error.code())
    }
}

type Observer = Arc<dyn Fn(&Retrying<'_>) + Send + Sync>;

/// One model behind one transport.
#[derive(Clone)]
pub struct Client {
    provider: &'static dyn Provider,
    card: ModelCard,
    transport: Arc<dyn Transport>,
    retry: RetryPolicy,
    sleeper: Arc<dyn Sleeper>,
    masker: Masker,
    observer: Option<Observer>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} by {:?}", self.provider.name(), self.card.id, self.transport)
    }
}

impl Client {
    /// A client over any transport.
    pub fn new(provider: &'static dyn Provider, card: ModelCard, transport: Arc<dyn Transport>) -> Self {
        Self {
            provider,
            card,
            transport,
            retry: RetryPolicy::default(),
            sleeper: Arc::new(TokioSleeper),
            masker: Masker::default(),
            observer: None,
        }
    }

    /// With another policy.
    #[must_use]
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// With another clock.
    #[must_use]
    pub fn sleeper(mut self, sleeper: Arc<dyn Sleeper>) -> Self {
        self.sleeper = sleeper;
        self
    }

    /// With the secrets that no error may show.
    #[must_use]
    pub fn masker(mut self, masker: Masker) -> Self {
        self.masker = masker;
        self
    }

    /// With somebody who is told before each wait.
    #[must_use]
    pub fn observer(mut self, observer: impl Fn(&Retrying<'_>) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// The model.
    pub fn card(&self) -> &ModelCard {
        &self.card
    }

    /// The provider.
    pub fn provider(&self) -> &'static dyn Provider {
        self.provider
    }

    /// An upper bound, for ordinary text and code, of what the next call uses.
    pub fn estimate(&self, request: &ChatRequest) -> Usage {
        let body = self.provider.request(&self.card, request).body;
        let prompt = tokens_of(serde_json::to_string(&body).map_or(0, |text| text.len()));
        let output = u64::from(request.max_output_tokens.min(self.card.max_output));
        let mut usage = Usage { output, ..Usage::default() };
        // At worst the whole prompt is written to a cache, where that costs more than reading it.
        match self.card.cache_ttl {
            Some(super::models::CacheTtl::FiveMinutes) => usage.cache_write_5m = prompt,
            Some(super::models::CacheTtl::Hour) => usage.cache_write_1h = prompt,
            None => usage.input = prompt,
        }
        usage
    }

    /// Asks for the next message, again and again as the policy allows; the body is the same each time. What failed
    /// tries used is part of the usage, of the reply's or of the error's; where a try was answered, or may have been, and
    /// nobody says what it used, the estimate of its prompt stands for it.
    pub async fn chat(&self, request: &ChatRequest, cancel: &CancellationToken) -> Result<Reply, ProviderError> {
        let http = self.provider.request(&self.card, request);
        let mut lost = Usage::default();
        let mut waited = Duration::ZERO;
        let mut malformed = 0;
        let mut attempt = 0;
        loop {
            attempt += 1;
            if cancel.is_cancelled() {
                return Err(self.cancelled(lost));
            }
            let sent = tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    lost += self.prompt(request);
                    return Err(self.cancelled(lost));
                }
                sent = self.transport.send(http.clone()) => sent,
            };
            let (begun, outcome) = match sent {
                Err(error) => {
                    let begun = error.after_sending();
                    (begun, Err(ProviderError::of_transport(self.provider.name(), error)))
                }
                Ok(reply) => {
                    let begun = (200..300).contains(&reply.status);
                    (begun, self.provider.reply(&reply))
                }
            };
            let error = match outcome {
                Ok(reply) if !self.believes(&reply.usage, request) => self.absurd(&reply.usage),
                Ok(mut reply) => {
                    if reply.usage == Usage::default() {
                        reply.usage = self.guess(request, &reply);
                    }
                    reply.usage += lost;
                    return Ok(reply);
                }
                Err(error) => error,
            };
            lost += match error.usage().filter(|usage| self.believes(usage, request)) {
                Some(usage) => usage,
                None if begun => self.prompt(request),
                None => Usage::default(),
            };
            let error = error.masked(|text| self.masker.mask(text)).used(lost);
            malformed += u32::from(error.kind == ErrorKind::Malformed);
            let spent = attempt >= self.retry.attempts || malformed >= self.retry.malformed;
            if spent || !error.retryable() {
                return Err(error);
            }
            if !self.transport.live() {
                continue;
            }
            let wait = self.wait(attempt, &error);
            if waited + wait > self.retry.total {
                return Err(error);
            }
            if let Some(observer) = &self.observer {
                observer(&Retrying { error: &error, wait, attempt, attempts: self.retry.attempts });
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(self.cancelled(lost)),
                () = self.sleeper.sleep(wait) => {}
            }
            waited += wait;
        }
    }

    /// Asks whether the endpoint is there and accepts the key; costs nothing.
    pub async fn probe(&self) -> Result<(), ProviderError> {
        let name = self.provider.name();
        let reply = self.transport.send(self.provider.probe()).await;
        let reply = reply.map_err(|error| ProviderError::of_transport(name, error))?;
        if reply.status == 200 {
            return Ok(());
        }
        match self.provider.reply(&reply) {
            Err(error) => Err(error.masked(|text| self.masker.mask(text))),
            Ok(_) => Ok(()),
        }
    }

    fn cancelled(&self, lost: Usage) -> ProviderError {
        ProviderError::new(self.provider.name(), ErrorKind::Cancelled, "the call was cancelled").used(lost)
    }

    fn wait(&self, attempt: u32, error: &ProviderError) -> Duration {
        let chance = self.sleeper.chance().clamp(0.0, 1.0);
        if let Some(asked) = error.retry_after() {
            // Never earlier than asked, and not all at the same moment.
            return asked + asked.mul_f64(0.1 * chance).min(Duration::from_secs(1));
        }
        let grown = self.retry.first.saturating_mul(2_u32.saturating_pow(attempt - 1)).min(self.retry.longest);
        grown.mul_f64(0.5 + 0.5 * chance)
    }

    /// The least that a call uses whose answer began: its prompt.
    fn prompt(&self, request: &ChatRequest) -> Usage {
        Usage { output: 0, ..self.estimate(request) }
    }

    /// Whether one call can have used that. The window may be set too small in devo.yaml, so the prompt's own size counts too.
    fn believes(&self, usage: &Usage, request: &ChatRequest) -> bool {
        let within = |tokens: u64| usage.total() <= tokens.saturating_mul(ABSURD);
        within(self.card.context) || within(self.estimate(request).total())
    }

    fn absurd(&self, usage: &Usage) -> ProviderError {
        let (claimed, window) = (usage.total(), self.card.context);
        let message = format!("the reply claims to have used {claimed} tokens; the model's window has {window}");
        ProviderError::new(self.provider.name(), ErrorKind::Garbled, message)
    }

    /// For servers that do not count: a bound from the sizes, so that a price still means something.
    fn guess(&self, request: &ChatRequest, reply: &Reply) -> Usage {
        let asked = self.estimate(request);
        Usage { input: asked.prompt(), output: tokens_of(reply.message.native.to_string().len()), ..Usage::default() }
    }
}

/// The network transport of an endpoint, whose key becomes known to `masker`.
pub fn http_transport(
    provider: &dyn Provider,
    endpoint: &Endpoint,
    masker: &Masker,
) -> Result<Arc<dyn Transport>, ProviderError> {
    if let Some(key) = endpoint.key() {
        masker.add(key);
    }
    let made = HttpTransport::new(provider, endpoint, HttpLimits::default());
    let made = made.map_err(|error| ProviderError::of_transport(provider.name(), error))?;
    Ok(Arc::new(made))
}

/// Tokens of so many bytes, on the high side for text and code.
fn tokens_of(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(3)
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
