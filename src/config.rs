//! Settings: `devo.yaml`, read once and passed on as values. Secrets are not here: they come from the environment, from files
//! or from systemd, and only their users see them.

mod chat;
mod fit;
mod git;
mod notify;
mod sandbox;
mod web;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::core::budget::Price;
use crate::core::domain::Reach;
use crate::core::service::{Services, is_service_name};
use crate::journal::Durability;
use crate::pipeline::{is_reserved, is_variable};
use crate::providers::models::ModelEntry;
use crate::yaml::{self, Diagnostic, Document};

pub use chat::{Chat, Language, Telegram, Topics, Verbosity};
pub use git::{Author, Credential, Git, LinkTemplate};
pub use notify::{Notify, QuietHours, Reminders, Security, Smtp, Webhook};
pub use sandbox::{Sandbox, SandboxLimits, SandboxType};
pub use web::{Hook, OWNER, User, UserRole, Web, host_of_url};

/// The file.
pub const FILE: &str = "devo.yaml";

/// How a service may be called.
const SERVICE_NAME: &str = "a name is a host name: lower-case letters, digits and `-`, 63 at most";
/// The engine's own credentials and ways to them, beside the keys of providers.
const OWN_CREDENTIALS: &[&str] =
    &["TELEGRAM_BOT_TOKEN", "DEVO_TOKEN", "SSH_AUTH_SOCK", "CREDENTIALS_DIRECTORY", "HTTPS_PROXY", "https_proxy"];

/// `devo.yaml`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The repositories that tasks may name.
    #[serde(default)]
    pub repos: BTreeMap<String, Repo>,
    /// Which model plays which role.
    #[serde(default)]
    pub roles: Roles,
    /// Chat channels.
    #[serde(default)]
    pub chat: Chat,
    /// The web pages and the API of `devo serve`.
    #[serde(default)]
    pub web: Web,
    /// Who may use them, beside whoever has the home's token.
    #[serde(default)]
    pub users: BTreeMap<String, User>,
    /// Where commands run, for repositories that say nothing else and for pipelines without one.
    #[serde(default)]
    pub sandbox: Sandbox,
    /// The journal.
    #[serde(default)]
    pub journal: JournalSettings,
    /// USD per million tokens, by model; for models that the built-in table does not know.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, PriceSchema>")]
    pub prices: BTreeMap<String, Price>,
    /// More about models than their price, or other values than the built-in table has.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Value>")]
    pub models: BTreeMap<String, ModelEntry>,
    /// Secrets that `shell` and `test` steps of pipelines may name: variables (`NAME`, or `NAME_FILE` for a file's path) or
    /// systemd credentials of the engine. Their values are never written here.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// Whether a task may name a repository by path or URL instead of a key.
    #[serde(default)]
    pub allow_paths: bool,
    /// How much runs side by side.
    #[serde(default)]
    pub limits: Limits,
    /// Who is told, beside the chats, when a plan is ready, a question is asked, a run fails or is done.
    #[serde(default)]
    pub notify: Notify,
    /// Commits, and what opens remotes.
    #[serde(default)]
    pub git: Git,
    /// Links for forges whose host name says nothing: by host, templates with `{web}`, `{base}`, `{branch}`.
    #[serde(default)]
    pub links: BTreeMap<String, LinkTemplate>,
}

/// The documentation of [`Price`] for editors.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "its schema is what is used")]
struct PriceSchema {
    input: f64,
    output: f64,
    cached: f64,
    #[serde(default)]
    cache_write_5m: Option<f64>,
    #[serde(default)]
    cache_write_1h: Option<f64>,
}

/// A repository.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Repo {
    /// ssh, https, or a local path.
    pub url: String,
    /// The branch that work starts from; `development`, else the remote's default branch, if not given.
    #[serde(default)]
    pub base: Option<String>,
    /// How many commits of each branch are cloned; all if not given. A few make the first clone of a long history fast; the
    /// planner's `git_log` then sees no further.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub depth: Option<u32>,
    /// Branches that are never pushed to, as globs; added to the built-in list.
    #[serde(default)]
    pub protected: Vec<String>,
    /// Named commands; `test` is what the test step runs.
    #[serde(default)]
    pub checks: BTreeMap<String, String>,
    /// Where its commands run.
    #[serde(default)]
    pub sandbox: Option<Sandbox>,
    /// Domains that a command may reach, each with the ports 443 and 80 unless it says `:PORT`; none if not given, and
    /// `["*"]` for the whole network.
    #[serde(default)]
    pub network: Vec<String>,
    /// Services beside the commands of its `shell`, `test` and `execute-loop` steps, by host name; they need a docker
    /// sandbox.
    #[serde(default)]
    pub services: Services,
}

/// Which model plays which role.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Roles {
    /// Reads and plans.
    pub planner: Role,
    /// Edits and tests.
    pub executor: Role,
    /// Judges; not used by any step type of this version.
    pub reviewer: Role,
}

impl Default for Roles {
    fn default() -> Self {
        Self {
            planner: Role::new("anthropic", "claude-opus-5-5"),
            executor: Role::new("gemini", "gemini-3.8-flash"),
            reviewer: Role::new("anthropic", "claude-opus-5-5"),
        }
    }
}

/// A provider and a model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// `anthropic`, `gemini` or `openai`.
    pub provider: String,
    /// The model's id at the provider.
    pub model: String,
}

impl Role {
    fn new(provider: &str, model: &str) -> Self {
        Self { provider: provider.to_owned(), model: model.to_owned() }
    }
}

/// The journal.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JournalSettings {
    /// `full`: what was recorded survives a power cut; `normal`: it survives the death of the process.
    #[serde(default)]
    pub durability: DurabilityName,
}

/// How long a record lasts.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DurabilityName {
    /// It survives a power cut.
    #[default]
    Full,
    /// It survives the death of the process.
    Normal,
}

impl From<DurabilityName> for Durability {
    fn from(name: DurabilityName) -> Self {
        match name {
            DurabilityName::Full => Self::Full,
            DurabilityName::Normal => Self::Normal,
        }
    }
}

/// How much runs side by side.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Runs at work at once; one that waits for a person does not count.
    pub runs: usize,
    /// Of those, runs of one repository.
    pub per_repo: usize,
    /// Steps of one run.
    pub parallel: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { runs: 4, per_repo: 2, parallel: 8 }
    }
}

impl Config {
    /// Reads `devo.yaml`.
    pub fn read(file: &str, bytes: &[u8]) -> Result<Self, Vec<Diagnostic>> {
        let document = yaml::parse_bytes(file, bytes)?;
        let mut value = document.root.to_json();
        if value.is_null() {
            value = Value::Object(serde_json::Map::new());
        }
        // A key without a value is a key that was left empty, not a mistake.
        if let Value::Object(map) = &mut value {
            map.retain(|_, value| !value.is_null());
        }
        let wrong = fit::against_schema(&document, &value, &schemars::schema_for!(Self).to_value());
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let config: Self = serde_path_to_error::deserialize(value).map_err(|error| {
            let key = error.path().to_string();
            let span = document.root.locate(&format!("/{}", key.replace('.', "/")));
            vec![document.diagnostic(span, "wrong_value", format!("`{key}`: {}", error.inner()))]
        })?;
        let wrong = config.check(&document);
        if wrong.is_empty() { Ok(config) } else { Err(wrong) }
    }

    /// What the schema cannot say.
    fn check(&self, document: &Document) -> Vec<Diagnostic> {
        let mut wrong = Vec::new();
        let mut fault = |pointer: String, code, message: String, help: &str| {
            wrong.push(document.diagnostic(document.root.locate(&pointer), code, message).help(help));
        };
        for (key, repo) in &self.repos {
            let strict = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
            if !strict || key.starts_with(['.', '-']) || key.len() > 64 || key.is_empty() {
                let message = format!("`{key}` cannot name a repository");
                fault(
                    format!("/repos/{key}"),
                    "bad_name",
                    message,
                    "use letters, digits, `-`, `_` and `.`, 64 at most",
                );
            }
            for (at, error) in Reach::read(&repo.network).err().into_iter().flatten() {
                let help = "like `registry.example.org`, `*.example.org` or `host:8080`; [\"*\"] alone is all of it";
                fault(format!("/repos/{key}/network/{at}"), "bad_domain", error.to_string(), help);
            }
            for (name, service) in &repo.services {
                let place = format!("/repos/{key}/services/{name}");
                if !is_service_name(name) {
                    fault(place.clone(), "bad_name", format!("`{name}` cannot name a service"), SERVICE_NAME);
                }
                if service.image.trim().is_empty() {
                    fault(
                        place,
                        "wrong_value",
                        format!("service `{name}` names no image"),
                        "like `image: postgres:17`",
                    );
                }
            }
            for (place, message, help) in repo.sandbox.iter().flat_map(Sandbox::mistakes) {
                fault(format!("/repos/{key}/sandbox{place}"), "bad_sandbox", message, help);
            }
        }
        for (place, message, help) in self.sandbox.mistakes() {
            fault(format!("/sandbox{place}"), "bad_sandbox", message, help);
        }
        for (name, role) in
            [("planner", &self.roles.planner), ("executor", &self.roles.executor), ("reviewer", &self.roles.reviewer)]
        {
            if let Err(error) = crate::providers::provider(&role.provider) {
                fault(format!("/roles/{name}/provider"), "unknown_provider", error.to_string(), &error.hint());
            }
        }
        for (at, name) in self.secrets.iter().enumerate() {
            if let Some((why, help)) = self.no_secret(name) {
                fault(format!("/secrets/{at}"), "bad_secret", format!("`{}` {why}", name.escape_debug()), help);
            }
        }
        let chat = self.chat.telegram.iter().flat_map(|telegram| telegram.check(self));
        let more = web::check(&self.web, &self.users).into_iter().chain(notify::check(&self.notify)).chain(chat);
        let more = self.git.check().into_iter().chain(more);
        for (place, code, message, help) in more {
            fault(place, code, message, help);
        }
        if self.limits.parallel == 0 || self.limits.runs == 0 || self.limits.per_repo == 0 {
            fault(
                "/limits".to_owned(),
                "impossible_limit",
                "a limit of 0 would let nothing run".to_owned(),
                "use 1 or more",
            );
        }
        wrong
    }

    /// Why a name cannot be that of a pipeline's secret, and what to do.
    pub fn no_secret(&self, name: &str) -> Option<(&'static str, &'static str)> {
        let base = name.strip_suffix("_FILE").unwrap_or(name);
        if !is_variable(name) || name.len() > 128 {
            return Some(("is not the name of a variable", "use letters, digits and `_`, like `NPM_TOKEN`"));
        }
        if is_reserved(name) {
            return Some(("is set by the engine", "choose another name, like `NPM_TOKEN`"));
        }
        if self.own_credentials().any(|own| own == base) {
            return Some((
                "is a credential of the engine's own, which reaches no command",
                "give the commands a credential of their own, under another name",
            ));
        }
        None
    }

    /// The names of the engine's own credentials: keys of providers, what git pushes with, what channels sign and send with,
    /// and others.
    pub fn own_credentials(&self) -> impl Iterator<Item = &str> {
        let keys = crate::providers::PROVIDERS.iter().flat_map(|provider| provider.access().key_vars);
        let git =
            self.git.credentials.values().flat_map(|of_host| [of_host.token.as_deref(), of_host.proxy.as_deref()]);
        let told = self.notify.webhook.iter().map(|webhook| webhook.secret.as_str());
        let told = told.chain(self.notify.smtp.iter().filter_map(|smtp| smtp.password.as_deref()));
        let hooks = self.web.hooks.values().map(|hook| hook.secret.as_str());
        keys.copied().chain(OWN_CREDENTIALS.iter().copied()).chain(git.flatten()).chain(told).chain(hooks)
    }

    /// What a repository's `network` grants; it was checked when devo.yaml was read.
    pub fn reach_of(&self, repo: Option<&str>) -> Reach {
        let repo = repo.and_then(|name| self.repos.get(name));
        repo.and_then(|repo| Reach::read(&repo.network).ok()).unwrap_or_default()
    }

    /// The role's provider and model.
    pub fn role(&self, name: &str) -> Option<&Role> {
        match name {
            "planner" => Some(&self.roles.planner),
            "executor" => Some(&self.roles.executor),
            "reviewer" => Some(&self.roles.reviewer),
            _ => None,
        }
    }
}

/// The schema of devo.yaml, for editors.
pub fn schema() -> Value {
    let settings = schemars::generate::SchemaSettings::draft07();
    let mut schema = settings.into_generator().into_root_schema_for::<Config>().to_value();
    schema["title"] = Value::String("dev-orchestrator configuration".to_owned());
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_is_valid_and_so_are_its_examples() {
        let shipped = include_bytes!("app/devo.yaml");
        assert!(Config::read(FILE, shipped).unwrap().repos.is_empty());
        let uncommented = "repos:\n  shop:\n    url: git@github.com:acme/shop.git\n    base: development\n    protected: [\"release/*\"]\n    checks: {test: python3 -m pytest -q}\n    sandbox: {type: bubblewrap}\n    network: [registry.example.org, \"*.example.org:8443\"]\n    services: {db: {image: postgres:17, ready: pg_isready}}\nsecrets: [NPM_TOKEN]\nroles:\n  planner: {provider: anthropic, model: claude-opus-5-5}\nprices: {m: {input: 0, output: 0, cached: 0}}\nlimits: {parallel: 8}\ngit: {author: {name: a, email: b}, credentials: {github.com: {token: GITHUB_TOKEN, proxy: \"http://p:3128\"}, \"h:22\": {ssh_key: ~/.ssh/id}}}\nchat: {telegram: {allow: [1]}}\nweb: {listen: 127.0.0.1:7333}\n";
        let config = Config::read(FILE, uncommented.as_bytes()).unwrap();
        assert_eq!(config.repos["shop"].checks["test"], "python3 -m pytest -q");
        assert_eq!(config.roles.executor.provider, "gemini");
    }

    #[test]
    fn every_example_of_the_shipped_file_is_valid() {
        let shipped = include_str!("app/devo.yaml").replace("repos: {}", "repos:");
        // Prose stands behind `# `, an example behind `#` alone, or deeper.
        let example = |line: &str| line.starts_with("#  ") || (line.starts_with('#') && !line.starts_with("# "));
        let lines = shipped.lines().map(|line| if example(line) { &line[1..] } else { line });
        let text = lines.collect::<Vec<_>>().join("\n").replace('…', &"0".repeat(64));
        let config = Config::read(FILE, text.as_bytes()).unwrap_or_else(|wrong| panic!("{wrong:#?}\n{text}"));
        assert!(config.repos.contains_key("shop") && config.web.hooks.contains_key("ci"));
        assert!(config.users.contains_key("ann") && config.notify.smtp.is_some() && config.chat.telegram.is_some());
        assert!(config.notify.desktop && config.notify.quiet_hours.is_some());
    }

    #[test]
    fn mistakes_are_listed_with_place_and_suggestion() {
        let text = "repos:\n  shop:\n    url: x\n    bse: development\nroles:\n  planner: {provider: anthropc, model: m}\nprize: 1\n";
        let wrong = Config::read(FILE, text.as_bytes()).unwrap_err();
        let found: Vec<_> =
            wrong.iter().map(|fault| (fault.code, fault.line, fault.help.clone().unwrap_or_default())).collect();
        assert_eq!(found[0], ("unknown_key", 4, "did you mean `base`?".to_owned()));
        assert_eq!((found[1].0, found[1].1), ("unknown_key", 7));
        let text =
            "repos:\n  ../x: {url: x}\nroles:\n  planner: {provider: anthropc, model: m}\nsandbox: {type: docker}\n";
        let codes: Vec<_> = Config::read(FILE, text.as_bytes()).unwrap_err().iter().map(|fault| fault.code).collect();
        assert_eq!(codes, ["bad_name", "bad_sandbox", "unknown_provider"]);
        let text = "repos:\n  shop:\n    url: x\n    network:\n      - a.org\n      - http://b.org\n    services:\n      DB: {image: ''}\nsecrets: [A, DEVO_TOKEN, GEMINI_API_KEY, PATH, a-b, MY_GIT]\ngit: {credentials: {github.com: {token: MY_GIT}}}\n";
        let wrong = Config::read(FILE, text.as_bytes()).unwrap_err();
        let places: Vec<_> = wrong.iter().map(|fault| (fault.code, fault.line, fault.column)).collect();
        let secrets = [14, 26, 42, 48, 53].map(|column| ("bad_secret", 9, column));
        assert_eq!(places[0], ("bad_domain", 6, 9));
        assert_eq!([places[1].0, places[2].0], ["bad_name", "wrong_value"]);
        assert_eq!(places[3..], secrets);
        let text = "git:\n  credentials:\n    https://github.com: {token: T}\n    github.com: {token: ghp_s3cret, proxy: \"http://u:s3cret@p\"}\n";
        let wrong = Config::read(FILE, text.as_bytes()).unwrap_err();
        let codes: Vec<_> = wrong.iter().map(|fault| (fault.code, fault.line)).collect();
        assert_eq!(codes, [("not_a_name", 4), ("not_a_name", 4), ("bad_host", 3)]);
        assert!(wrong.iter().all(|fault| !fault.message.contains("s3cret")), "{wrong:?}");
    }

    #[test]
    fn a_word_that_is_none_of_a_list_is_told_with_the_list_and_its_place() {
        for (text, line, message, help) in [
            ("sandbox:\n  type: dockr\n", 2, "is none of bubblewrap, host, docker", "did you mean `docker`?"),
            ("repos:\n  a:\n    url: x\n    sandbox: {type: hst}\n", 4, "is none of", "did you mean `host`?"),
            ("repos:\n  a:\n    url: x\n    sandbox: {typ: host}\n", 4, "has no key `typ`", "did you mean `type`?"),
            ("journal: {durability: ful}\n", 1, "is none of", "did you mean `full`?"),
            ("web:\n  listen: localhost:7333\n", 2, "`web.listen`: invalid socket address", ""),
        ] {
            let wrong = Config::read(FILE, text.as_bytes()).unwrap_err();
            assert_eq!((wrong.len(), wrong[0].line), (1, line), "{wrong:?}");
            assert!(wrong[0].message.contains(message), "{wrong:?}");
            assert_eq!(wrong[0].help.as_deref().unwrap_or_default(), help);
        }
    }
}
