//! Ways in for people and programs. They know the core's words and the engine's handle; they do not know steps or equipment.
//!
//! A channel of the daemon is one file (or folder) here and one word in [`CHANNELS`].

pub mod causes;
pub mod cli;
pub mod doc;
pub mod drawing;
pub mod envelope;
pub mod figures;
pub mod inbox;
pub mod lines;
pub mod mail;
pub mod plain;
mod ringer;
pub mod telegram;
pub mod web;
pub mod webhook;
pub mod words;

use std::sync::Arc;

use async_trait::async_trait;

use crate::app::{App, Desk};
use crate::config::Config;
use crate::error::Error;

/// A way into a daemon. Everything it can do is a call of the [`Desk`].
#[async_trait]
pub trait Channel: Send + Sync {
    /// Its word in logs and records.
    fn name(&self) -> &'static str;

    /// What a person should know once it is open: an address, a bot's name.
    fn says(&self) -> Option<String> {
        None
    }

    /// Serves until [`Desk::stopping`] fires: the daemon stops, or the channel is opened anew. An error ends this channel and no other; the daemon opens it again after a
    /// while.
    ///
    /// # Errors
    /// Why it cannot go on.
    async fn serve(&self, desk: Arc<Desk>) -> Result<(), Error>;
}

/// Makes a channel from the configuration of a home; `None` where it is not configured.
pub type OpenChannel = fn(&App) -> Result<Option<Box<dyn Channel>>, Error>;

/// Every channel of the daemon.
pub const CHANNELS: &[Way] = &[
    Way { open: inbox::open, settings: |_| String::new() },
    Way {
        open: web::open,
        settings: |config| format!("{:?}", (config.web.listen, config.web.behind_proxy, &config.web.hooks)),
    },
    Way { open: webhook::open, settings: |config| format!("{:?}", config.notify.webhook) },
    Way { open: mail::open, settings: |config| format!("{:?}", config.notify.smtp) },
    Way { open: telegram::open, settings: |config| config.chat.telegram.is_some().to_string() },
];

/// A way to a channel.
pub struct Way {
    /// Opens it.
    pub open: OpenChannel,
    /// What of the settings it reads only when it is opened, as text: if that changes, it is opened anew.
    pub settings: fn(&Config) -> String,
}
