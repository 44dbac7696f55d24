//! The keys of a step that grant its commands something: `network`, `secrets`, `services`. Whether devo.yaml allows it is
//! asked where a run is made; here only what the file itself can get wrong is found.

use std::collections::BTreeMap;

use super::read::Reader;
use crate::core::domain::Reach;
use crate::core::service::{Service, Services, is_service_name};
use crate::steps::{Kind as StepKind, TAKES_SECRETS};
use crate::yaml::{Kind, Node};

const SERVICE_KEYS: &[&str] = &["image", "env", "command", "ready", "ready_within_s"];
/// The most services of a step: each is a container.
const SERVICES_MAX: usize = 20;
/// The longest that a service may take to become ready, in seconds.
const READY_MAX_S: u64 = 3600;

impl<'d> Reader<'d> {
    /// `network`: a list of domains, or `["*"]`.
    pub(super) fn network(&mut self, node: &'d Node) -> Option<Reach> {
        let entries = self.names(node, "network", "like [registry.example.org]; [] is no network")?;
        let texts: Vec<&str> = entries.iter().map(|(text, _)| text.as_str()).collect();
        match Reach::read(&texts) {
            Ok(reach) => Some(reach),
            Err(wrong) => {
                for (at, error) in wrong {
                    self.fault(entries[at].1.span.clone(), "bad_domain", error.to_string());
                    let help =
                        "like `registry.example.org`, `*.example.org` or `host:8080`; [\"*\"] alone is all of it";
                    self.advise(|fault| fault.help(help));
                }
                None
            }
        }
    }

    /// `secrets`: names that devo.yaml lists, for types whose commands are not a model's.
    pub(super) fn secrets(&mut self, node: &'d Node, kind: Option<&StepKind>, what: &str) -> Vec<String> {
        let Some(entries) = self.names(node, "secrets", "like [NPM_TOKEN]: names that devo.yaml lists under `secrets`")
        else {
            return Vec::new();
        };
        if let Some(kind) = kind.filter(|kind| !TAKES_SECRETS.contains(&kind.name) && !entries.is_empty()) {
            let why = match kind.name {
                "execute-loop" => "its commands are a model's",
                _ => "it runs no command that could use one",
            };
            let message = format!("{what}: a step of type `{}` gets no secrets: {why}", kind.name);
            self.fault(node.span.clone(), "no_secrets_here", message);
            self.advise(|fault| fault.help(format!("types that take secrets: {}", TAKES_SECRETS.join(", "))));
        }
        let mut names: Vec<String> = Vec::new();
        for (name, node) in entries {
            if !super::read::is_variable(&name) {
                self.fault(node.span.clone(), "bad_name", format!("`{name}` is not the name of a variable"));
            } else if super::read::is_reserved(&name) {
                self.fault(node.span.clone(), "reserved_name", format!("`{name}` is set by the engine"));
            } else if names.contains(&name) {
                self.fault(node.span.clone(), "duplicate_name", format!("`{name}` is listed twice"));
            }
            names.push(name);
        }
        names
    }

    /// `services`: containers beside the commands, by host name.
    pub(super) fn services(&mut self, node: &'d Node) -> Services {
        let mut services = Services::new();
        let entries = self.map(node, "`services`");
        if entries.len() > SERVICES_MAX {
            let message = format!("{} services; {SERVICES_MAX} are allowed", entries.len());
            self.fault(node.span.clone(), "too_many", message);
        }
        for (key, node) in entries {
            if !is_service_name(&key.text) {
                self.fault(key.span.clone(), "bad_name", format!("`{}` cannot name a service", key.text));
                let help = "a name is a host name: lower-case letters, digits and `-`, 63 at most";
                self.advise(|fault| fault.help(help));
            }
            if let Some(service) = self.service(&key.text, node) {
                services.insert(key.text.clone(), service);
            }
        }
        services
    }

    fn service(&mut self, name: &str, node: &'d Node) -> Option<Service> {
        let what = format!("service `{name}`");
        let entries = self.map(node, &what);
        self.known_keys(entries, SERVICE_KEYS, &what);
        let image = node.get("image").and_then(|node| self.filled(node, "`image`"));
        if node.get("image").is_none() && matches!(node.kind, Kind::Map(_)) {
            self.fault(node.span.clone(), "missing_key", format!("{what} needs an `image`"));
            self.advise(|fault| fault.help("like `image: postgres:17`"));
        }
        let mut env = BTreeMap::new();
        for (key, value) in node.get("env").map_or(&[][..], |node| self.map(node, "`env` of a service")) {
            if !super::read::is_variable(&key.text) {
                self.fault(key.span.clone(), "bad_name", format!("`{}` is not the name of a variable", key.text));
            }
            let text = match &value.kind {
                Kind::Number(_) | Kind::Bool(_) => Some(value.to_json().to_string()),
                _ => self.text(value, &format!("variable `{}`", key.text)),
            };
            env.extend(text.map(|text| (key.text.clone(), text)));
        }
        let ready_within_s = node.get("ready_within_s").and_then(|node| {
            let seconds = self.whole(node, "`ready_within_s`", 1)?;
            if seconds > READY_MAX_S {
                let message = format!("`ready_within_s` may be {READY_MAX_S} at most");
                self.fault(node.span.clone(), "impossible_limit", message);
            }
            Some(seconds)
        });
        let command = node.get("command").and_then(|node| self.filled(node, "`command`"));
        let ready = node.get("ready").and_then(|node| self.filled(node, "`ready`"));
        Some(Service { image: image?, env, command, ready, ready_within_s })
    }

    /// Text that is not empty.
    fn filled(&mut self, node: &Node, what: &str) -> Option<String> {
        let text = self.text(node, what)?;
        if text.trim().is_empty() {
            self.fault(node.span.clone(), "wrong_value", format!("{what} is empty"));
            return None;
        }
        Some(text)
    }

    /// A list of texts, each with its place.
    fn names(&mut self, node: &'d Node, what: &str, help: &str) -> Option<Vec<(String, &'d Node)>> {
        let Kind::List(items) = &node.kind else {
            let message = format!("`{what}` must be a list, and this is {}", node.describe());
            self.fault(node.span.clone(), "wrong_type", message);
            let help = help.to_owned();
            self.advise(|fault| fault.help(help));
            return None;
        };
        let entry = format!("an entry of `{what}`");
        Some(items.iter().filter_map(|item| Some((self.text(item, &entry)?, item))).collect())
    }
}
