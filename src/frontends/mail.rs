//! Tells people of what rings by e-mail, and of what `notify` steps say: one mail for each person and occasion. It does not know
//! how a mail travels, nor when: that is the ringer's.

mod letter;
mod smtp;
mod words;

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;

use super::Channel;
use super::ringer::{self, Answer, Manners, Teller, Telling};
use super::words::Lang;
use crate::app::{App, Desk};
use crate::config::{Language, Smtp};
use crate::core::event::RunSpec;
use crate::core::rings::Target;
use crate::error::Error;
use crate::secrets::Masker;
use smtp::Post;

/// The channel's word in logs and records.
const NAME: &str = "mail";

struct Mail {
    smtp: Smtp,
    post: Post,
    lang: Lang,
    /// Whose settings say how people reach the pages; there once it serves.
    app: OnceLock<Arc<App>>,
    masker: Masker,
}

/// The mail channel of devo.yaml, if there is one.
///
/// # Errors
/// Its password has no value, or its sender is none.
pub fn open(app: &App) -> Result<Option<Box<dyn Channel>>, Error> {
    let config = app.config();
    let Some(smtp) = config.notify.smtp.clone() else { return Ok(None) };
    let post = post(app, &smtp)?;
    let lang = match smtp.language {
        Language::En => Lang::En,
        Language::Es => Lang::Es,
    };
    Ok(Some(Box::new(Mail { post, lang, app: OnceLock::new(), masker: app.masker(), smtp })))
}

fn post(app: &App, smtp: &Smtp) -> Result<Post, Error> {
    let password = match &smtp.password {
        None => None,
        Some(name) => Some(app.secret(name)?.ok_or_else(|| {
            Error::refused("no_secret", format!("the mail server's password `{name}` has no value"))
                .hint(format!("set {name}, or {name}_FILE to a file's path, or give devo a systemd credential {name}"))
        })?),
    };
    Post::new(smtp, password)
}

/// Whether the server takes us for its user, without a mail being sent; for `devo doctor`.
///
/// # Errors
/// Why it does not.
pub async fn probe(smtp: &Smtp, password: Option<secrecy::SecretString>) -> Result<(), String> {
    let post = Post::new(smtp, password).map_err(|error| error.message)?;
    post.probe().await
}

#[async_trait]
impl Channel for Mail {
    fn name(&self) -> &'static str {
        NAME
    }

    fn says(&self) -> Option<String> {
        let (host, port) = (&self.smtp.host, self.smtp.port());
        Some(match self.smtp.to.len() {
            0 => format!("mail goes by {host}:{port} to whom tasks name; notify.smtp.to is empty"),
            n => format!("mail goes by {host}:{port} to {n} of notify.smtp.to, and to whom tasks name"),
        })
    }

    async fn serve(&self, desk: Arc<Desk>) -> Result<(), Error> {
        // The same at every opening.
        self.app.get_or_init(|| desk.app.clone());
        ringer::serve(self, &desk).await
    }
}

#[async_trait]
impl Teller for Mail {
    fn name(&self) -> &'static str {
        NAME
    }

    fn manners(&self) -> Manners {
        // What a mail server refuses for good it refuses the next time as well.
        Manners { people: true, tries: 1 }
    }

    fn usual(&self, spec: &RunSpec) -> Vec<String> {
        // A task that names somebody is told to nobody else.
        if spec.notify.is_empty() { self.smtp.to.clone() } else { Vec::new() }
    }

    fn named(&self, target: &Target) -> Option<String> {
        match target {
            Target::Mail(address) if self.smtp.may_tell(address) => Some(address.clone()),
            Target::Mail(address) => {
                tracing::warn!(
                    channel = NAME,
                    to = address,
                    "notify.smtp does not allow this address, so it is not told"
                );
                None
            }
            _ => None,
        }
    }

    async fn tell(&self, telling: &Telling<'_>) -> Answer {
        // As devo.yaml has it now.
        let config = self.app.get().map(|app| app.config());
        let pages = config.as_ref().and_then(|config| config.web.url.as_deref());
        let letter = letter::write(telling, pages, self.lang, &self.masker);
        self.post.send(&letter, telling.to).await
    }
}
