//! The chat channels of `devo.yaml`: who may talk to them, and how they speak. Tokens are not here.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Config, OWNER};

/// Chat channels; `devo serve` opens them.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Chat {
    /// A Telegram bot; its token comes from TELEGRAM_BOT_TOKEN, TELEGRAM_BOT_TOKEN_FILE or systemd's credentials.
    #[serde(default)]
    // Not "it or null": a mistake within would be told of the whole.
    #[schemars(with = "Telegram")]
    pub telegram: Option<Telegram>,
}

/// A Telegram bot.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Telegram {
    /// Numeric ids of the users who may talk to it; nobody else gets an answer. Without any, nobody may.
    #[serde(default)]
    pub allow: Vec<i64>,
    /// Which of them may approve, reject and add budget; all of them if the key is not there, nobody if it is empty.
    #[serde(default)]
    pub approvers: Option<Vec<i64>>,
    /// Numeric ids (negative) of the groups in which it listens to them.
    #[serde(default)]
    pub chats: Vec<i64>,
    /// As which user of the pages somebody may sign in by a link from the bot (`/login`): numeric ids, and names of `users` or
    /// `owner`. Whoever is not here gets none.
    #[serde(default)]
    pub users: BTreeMap<i64, String>,
    /// What it speaks, unless a chat chose with /lang; otherwise the language of the person's Telegram.
    #[serde(default)]
    #[schemars(with = "Language")]
    pub language: Option<Language>,
    /// How much it tells, unless a chat chose with /verbose.
    #[serde(default)]
    pub verbosity: Verbosity,
    /// Where a run is talked about in chats with topics.
    #[serde(default)]
    pub topics: Topics,
    /// The repository of a task that names none.
    #[serde(default)]
    pub repo: Option<String>,
}

/// A language of the channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// English.
    En,
    /// Spanish.
    Es,
}

/// How much a chat is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verbosity {
    /// Only what rings: plans, questions, failures, results.
    Quiet,
    /// A message per run that follows its steps, too.
    #[default]
    Steps,
    /// The same with what the steps do at the moment; in groups as `steps`.
    Tools,
}

/// Where a run is talked about in chats with topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Topics {
    /// Where its task was asked for.
    #[default]
    AsAsked,
    /// In a topic of its own, unless its task was asked for in one; the bot must be allowed to make topics.
    PerTask,
}

impl Telegram {
    /// Whether this user may approve.
    pub fn approves(&self, user: i64) -> bool {
        self.allow.contains(&user) && self.approvers.as_ref().is_none_or(|approvers| approvers.contains(&user))
    }

    /// What the schema cannot say: place, code, message and remedy of each mistake.
    pub(super) fn check(&self, config: &Config) -> Vec<(String, &'static str, String, &'static str)> {
        let mut wrong = Vec::new();
        let at = |key: &str, n: usize| format!("/chat/telegram/{key}/{n}");
        let approvers = self.approvers.as_deref().unwrap_or_default();
        for (key, ids) in [("allow", self.allow.as_slice()), ("approvers", approvers)] {
            for (n, id) in ids.iter().enumerate().filter(|(_, id)| **id <= 0) {
                let message = format!("{id} is not the id of a user");
                wrong.push((at(key, n), "wrong_value", message, "users have positive ids; groups belong into `chats`"));
            }
        }
        for (n, id) in approvers.iter().enumerate().filter(|(_, id)| **id > 0 && !self.allow.contains(id)) {
            let message = format!("{id} may approve and may not talk to the bot");
            wrong.push((at("approvers", n), "not_allowed", message, "add the id to `allow`, or take it out here"));
        }
        for (n, id) in self.chats.iter().enumerate().filter(|(_, id)| **id >= 0) {
            let message = format!("{id} is not the id of a group");
            wrong.push((at("chats", n), "wrong_value", message, "groups have negative ids; users belong into `allow`"));
        }
        for (id, user) in &self.users {
            let place = format!("/chat/telegram/users/{id}");
            if !self.allow.contains(id) {
                let message = format!("{id} may sign in and may not talk to the bot");
                wrong.push((place, "not_allowed", message, "add the id to `allow`, or take it out here"));
            } else if user != OWNER && !config.users.contains_key(user) {
                let message = format!("there is no user `{user}`");
                wrong.push((place, "unknown_user", message, "use a key of `users`, or `owner`"));
            }
        }
        if let Some(repo) = self.repo.as_ref().filter(|repo| !config.repos.contains_key(*repo)) {
            let message = format!("there is no repository `{repo}`");
            wrong.push(("/chat/telegram/repo".to_owned(), "unknown_repo", message, "use a key of `repos`"));
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::super::FILE;
    use super::*;

    fn read(chat: &str) -> Result<Telegram, Vec<String>> {
        let text = format!("repos: {{shop: {{url: /x}}}}\nchat:\n  telegram: {chat}\n");
        match Config::read(FILE, text.as_bytes()) {
            Ok(config) => Ok(config.chat.telegram.expect("it was given")),
            Err(wrong) => {
                Err(wrong.iter().map(|w| format!("{}:{} {} {}", w.line, w.column, w.code, w.message)).collect())
            }
        }
    }

    #[test]
    fn without_a_list_nobody_is_admitted_and_without_approvers_all_who_are() {
        let none = read("{}").unwrap();
        assert!(none.allow.is_empty() && !none.approves(1));
        let open = read("{allow: [1, 5000000000]}").unwrap();
        assert!(open.approves(5_000_000_000) && !open.approves(2));
        assert!(!read("{allow: [1], approvers: []}").unwrap().approves(1), "an empty list admits nobody");
        let subset =
            read("{allow: [1, 2], approvers: [2], chats: [-100123], language: es, verbosity: quiet, repo: shop}");
        let subset = subset.unwrap();
        assert!(subset.approves(2) && !subset.approves(1));
        assert_eq!((subset.language, subset.verbosity), (Some(Language::Es), Verbosity::Quiet));
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let wrong = read("{allow: [1, -5], approvers: [1, 9], chats: [7], repo: shpo}").unwrap_err();
        assert_eq!(wrong.len(), 4, "{wrong:?}");
        assert!(wrong[0].starts_with("3:25 wrong_value -5"), "{wrong:?}");
        assert!(wrong[1].contains("not_allowed 9") && wrong[2].contains("7 is not"), "{wrong:?}");
        let wrong = read("{allow: [1], users: {1: nobody, 2: owner}}").unwrap_err();
        assert!(wrong[0].contains("unknown_user") && wrong[1].contains("not_allowed 2"), "{wrong:?}");
        assert_eq!(read("{allow: [1], users: {1: owner}}").unwrap().users[&1], "owner");
        assert!(read("{alow: [1]}").unwrap_err()[0].contains("no key `alow`"));
        assert!(read("{allow: [\"@ana\"]}").is_err());
        assert!(read("{allow: 5}").is_err());
    }
}
