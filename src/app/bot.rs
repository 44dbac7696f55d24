//! What a chat bot gets of a home: who may talk to it, its address and token, the repositories, and a look at documents.

use secrecy::SecretString;

use super::App;
use crate::config::{Config, Telegram};
use crate::error::Error;
use crate::pipeline::{self, InputKind, PipelineRef};
use crate::providers::endpoint::Endpoint;
use crate::secrets::Masker;
use crate::secrets::source::secret;
use crate::yaml::{self, Diagnostic};

/// Where Telegram is, unless TELEGRAM_API_URL says otherwise.
const TELEGRAM: &str = "https://api.telegram.org";
const ADDRESS: &str = "TELEGRAM_API_URL";
const TOKEN: &str = "TELEGRAM_BOT_TOKEN";

/// What a Telegram bot works with.
#[derive(Debug, Clone, Default)]
pub struct BotAccess {
    /// Who may do what, when it was opened.
    pub settings: Telegram,
    /// The Bot API, without a slash at its end.
    pub address: String,
    /// Whether it is reached without encryption.
    pub plain: bool,
    /// Whether it is on this machine.
    pub loopback: bool,
    /// The bot's token.
    pub token: SecretString,
    /// Knows the token and every other secret.
    pub masker: Masker,
}

/// What a posted document is.
#[derive(Debug, Clone, PartialEq)]
pub enum Posted {
    /// A task; it is checked when it is submitted.
    Task {
        /// Whether it brings steps of its own.
        inline: bool,
    },
    /// A valid pipeline.
    Pipeline {
        /// Its name.
        name: String,
        /// The inputs that a task must give: names and types, `repo` and `task` among them.
        required: Vec<(String, InputKind)>,
        /// The pipeline as JSON, fit to stand in a task.
        inline: serde_json::Value,
    },
}

impl App {
    /// What the configured Telegram bot works with; `None` without one. The token is looked for anew each time.
    ///
    /// # Errors
    /// There is no token, or an address or a file of a token that cannot be used.
    pub fn telegram(&self) -> Result<Option<BotAccess>, Error> {
        access(&self.config(), &self.masker())
    }

    /// Says what a posted document is: whatever has `steps` is a pipeline, everything else should be a task.
    ///
    /// # Errors
    /// Every mistake of a pipeline, each with its line and column.
    pub fn look_into(&self, name: &str, bytes: &[u8]) -> Result<Posted, Error> {
        let document = yaml::parse_bytes(name, bytes).map_err(|wrong| positions(&wrong))?;
        if document.root.get("steps").is_none() || document.root.get("pipeline").is_some() {
            let task = pipeline::read_task(&document);
            let posted = task.map(|task| Posted::Task { inline: matches!(task.pipeline, PipelineRef::Inline(_)) });
            return posted.map_err(|wrong| positions(&wrong));
        }
        let pipeline = pipeline::read(&document).map_err(|wrong| positions(&wrong))?;
        let required = pipeline.inputs.iter().filter(|(_, input)| input.required);
        let required = required.map(|(name, input)| (name.clone(), input.kind)).collect();
        Ok(Posted::Pipeline { name: pipeline.name, required, inline: document.root.to_json() })
    }
}

/// What the bot of a configuration works with.
pub(super) fn access(config: &Config, masker: &Masker) -> Result<Option<BotAccess>, Error> {
    let Some(settings) = config.chat.telegram.clone() else { return Ok(None) };
    let environment = |name: &str| std::env::var(name).ok();
    let unreadable =
        |error: crate::secrets::source::Unreadable| Error::refused("telegram", error.to_string()).hint(error.hint());
    let refused = |error: crate::providers::endpoint::EndpointError| {
        Error::refused("telegram", error.to_string()).hint(error.hint())
    };
    let token = secret(&[TOKEN], &environment).map_err(unreadable)?.ok_or_else(|| {
        Error::refused("no_key", format!("devo.yaml configures a Telegram bot, and {TOKEN} is not set"))
            .hint(format!("put the token from @BotFather into {TOKEN}, into a file that {TOKEN}_FILE names, or into systemd's credential {TOKEN}; or take `chat.telegram` out"))
    })?;
    let token_text = secrecy::ExposeSecret::expose_secret(&token);
    let (bot, rest) = token_text.split_once(':').unwrap_or_default();
    let word = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if bot.is_empty() || !bot.bytes().all(|byte| byte.is_ascii_digit()) || rest.is_empty() || !word(rest) {
        return Err(Error::refused("telegram", format!("what {TOKEN} holds is not a bot's token"))
            .hint("a token looks like 123456:letters-and-digits, alone on one line"));
    }
    let address = environment(ADDRESS).filter(|value| !value.trim().is_empty());
    let endpoint = Endpoint::new(ADDRESS, address.as_deref().unwrap_or(TELEGRAM), None).map_err(refused)?;
    masker.add(&token);
    Ok(Some(BotAccess {
        settings,
        address: endpoint.base_url().to_owned(),
        plain: endpoint.is_plain(),
        loopback: endpoint.is_loopback(),
        token,
        masker: masker.clone(),
    }))
}

/// Mistakes as short lines: a chat is too narrow for the lines of the file.
fn positions(wrong: &[Diagnostic]) -> Error {
    let line = |fault: &Diagnostic| {
        let help = fault.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
        format!("{}:{}:{}: {}{help}", fault.file, fault.line, fault.column, fault.message)
    };
    Error::refused("invalid", wrong.iter().map(line).collect::<Vec<_>>().join("\n"))
}
