//! One service of a compose file.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::super::description::{Build, Origin, Ready, ServiceDescription, shell};
use super::super::image::Source;
use super::super::services::is_host_name;
use super::super::unfit::{At, Findings, check, folder_of, is_image_name, is_user, shown};
use super::interpolate::interpolate;
use super::{keys, values, volumes};

/// The most that a service may take to become ready, in seconds, however patient its file is.
const READY_MAX_S: u64 = 900;
/// Capabilities that services have anyway.
const GRANTED: [&str; 5] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"];

/// What reading needs at hand.
pub(super) struct Reader<'a> {
    pub(super) file: &'a str,
    pub(super) root: &'a Map<String, Value>,
    pub(super) source: &'a dyn Source,
    pub(super) found: &'a mut Findings,
}

/// A service, and what it says of others.
pub(super) struct Read {
    pub(super) service: ServiceDescription,
    /// What it depends on; `true` if that must have ended with success.
    pub(super) needs: BTreeMap<String, bool>,
    /// Further names of others: (service, alias).
    pub(super) links: Vec<(String, String)>,
}

impl Reader<'_> {
    /// Reads one. `own` is whether commands run in it.
    pub(super) fn service(&mut self, at: &At, name: &str, value: &Value, own: bool) -> Option<Read> {
        let value = interpolate(self.found, at, value);
        let Some(entries) = value.as_object() else {
            self.found.refuse(at, "must be a mapping", "write `{image: …}`");
            return None;
        };
        check(self.found, at, entries, &keys::SERVICE);
        self.reach(at, entries);
        let origin = self.origin(at, entries);
        let mut service = ServiceDescription::new(name, origin.unwrap_or(Origin::Image(String::new())));
        let get = |key: &str| entries.get(key).filter(|value| !value.is_null()).map(|value| (at.key(key), value));
        if let Some((at, value)) = get("env_file") {
            service.env = self.env_files(&at, value);
        }
        if let Some((at, value)) = get("environment") {
            service.env.extend(values::variables(self.found, &at, value));
        }
        if let Some((at, value)) = get("user") {
            service.user = self.found.text(&at, value);
            if let Some(user) = service.user.as_ref().filter(|user| !is_user(user)) {
                self.found.refuse(&at, format!("`{}` is not a user", shown(user)), "write a name or a number");
            }
        }
        service.working_dir = get("working_dir").and_then(|(at, value)| self.found.text(&at, value));
        service.command = get("command").and_then(|(at, value)| self.found.command(&at, value));
        service.entrypoint = get("entrypoint").and_then(|(at, value)| self.found.command(&at, value));
        if service.entrypoint.as_ref().is_some_and(Vec::is_empty) {
            // To Docker's API an empty list is the image's own.
            service.entrypoint = Some(vec![String::new()]);
        }
        if let Some((at, value)) = get("healthcheck") {
            self.health(&at, value, &mut service);
        }
        if let Some((at, value)) = get("tmpfs") {
            self.tmpfs(&at, value, &mut service);
        }
        if let Some((at, value)) = get("volumes") {
            volumes::read(self.found, &at, value, (self.file, self.root, own), &mut service);
        }
        if let Some((at, value)) = get("networks") {
            self.networks(&at, value, &mut service);
        }
        if let Some(name) = get("container_name").and_then(|(at, value)| self.found.text(&at, value)) {
            service.aliases.push(name);
        }
        let mut read = Read { service, needs: BTreeMap::new(), links: Vec::new() };
        if let Some((at, value)) = get("depends_on") {
            self.depends(&at, value, &mut read.needs);
        }
        if let Some((at, value)) = get("links") {
            for link in self.found.texts(&at, value).unwrap_or_default() {
                let (target, alias) = link.split_once(':').unwrap_or((&link, &link));
                read.needs.entry(target.to_owned()).or_insert(false);
                read.links.push((target.to_owned(), alias.to_owned()));
            }
        }
        let aliases = read.service.aliases.iter().chain(read.links.iter().map(|(_, alias)| alias));
        for alias in aliases.filter(|alias| !is_host_name(alias)) {
            self.found.refuse(at, format!("has `{}`, which cannot be a host name", shown(alias)), "name it otherwise");
        }
        if own && !read.service.tmpfs.is_empty() {
            self.found.say("`tmpfs` is left out where commands run: /tmp is in memory there anyway");
        }
        Some(read)
    }

    /// Keys whose value decides whether they reach the host.
    fn reach(&mut self, at: &At, entries: &Map<String, Value>) {
        let leave = "leave it out: containers of a run share nothing with the host";
        let get = |key: &str| entries.get(key).filter(|value| !value.is_null()).map(|value| (at.key(key), value));
        if let Some((at, _)) = get("privileged").filter(|(_, value)| *value != &Value::Bool(false)) {
            self.found.refuse(&at, "makes the container the host's master", leave);
        }
        if let Some((at, value)) = get("network_mode") {
            match value.as_str() {
                Some("bridge" | "default") => {
                    self.found.say("`network_mode` is left out: all services share one network")
                }
                _ => self.found.refuse(&at, "joins another network than the services' own", leave),
            }
        }
        for (key, harmless) in [("ipc", "private"), ("pid", "private")] {
            if let Some((at, _)) = get(key).filter(|(_, value)| value.as_str() != Some(harmless)) {
                self.found.refuse(&at, "shares a namespace", leave);
            }
        }
        if let Some((at, value)) = get("cap_add") {
            for capability in self.found.texts(&at, value).unwrap_or_default() {
                let name = capability.to_ascii_uppercase();
                if !GRANTED.contains(&name.strip_prefix("CAP_").unwrap_or(&name)) {
                    let message = format!("asks for the capability `{}`", shown(&capability));
                    let hint = format!("leave it out: services have {}", GRANTED.join(", "));
                    self.found.refuse(&at, message, hint);
                }
            }
        }
        if let Some((at, value)) = get("security_opt") {
            for option in self.found.texts(&at, value).unwrap_or_default() {
                if !matches!(option.as_str(), "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true")
                {
                    self.found.refuse(&at, format!("loosens what confines it: `{}`", shown(&option)), leave);
                }
            }
        }
        if let Some((at, value)) = get("deploy") {
            let devices = value.pointer("/resources/reservations/devices").filter(|devices| !devices.is_null());
            match devices {
                Some(_) => self.found.refuse(&at, "asks for devices of the host", leave),
                None => self.found.say("`deploy` is left out: the limits of services are the engine's own"),
            }
        }
    }

    fn origin(&mut self, at: &At, entries: &Map<String, Value>) -> Option<Origin> {
        let present = |key: &str| entries.get(key).filter(|value| !value.is_null());
        if let Some(build) = present("build") {
            return self.build(&at.key("build"), build).map(Origin::Build);
        }
        let Some(image) = present("image") else {
            self.found.refuse(at, "has neither `image` nor `build`", "say what it is made from: `image: postgres:17`");
            return None;
        };
        let at = at.key("image");
        let image = self.found.text(&at, image)?;
        if !is_image_name(&image) {
            self.found.refuse(&at, format!("`{}` is not an image's name", shown(&image)), "write `name:tag`");
            return None;
        }
        Some(Origin::Image(image))
    }

    fn build(&mut self, at: &At, value: &Value) -> Option<Build> {
        let empty = Map::new();
        let (entries, context) = match value {
            Value::String(context) => (&empty, Some(context.clone())),
            Value::Object(entries) => (entries, entries.get("context").and_then(Value::as_str).map(str::to_owned)),
            _ => {
                self.found.refuse(at, "must be a folder or a mapping", "write `build: .`");
                return None;
            }
        };
        check(self.found, at, entries, &keys::BUILD);
        let get = |key: &str| entries.get(key).filter(|value| !value.is_null()).map(|value| (at.key(key), value));
        let context = self.found.path(at, folder_of(self.file), context.as_deref().unwrap_or("."))?;
        let dockerfile = match get("dockerfile") {
            Some((at, value)) => self.found.text(&at, value)?,
            None => "Dockerfile".to_owned(),
        };
        let dockerfile = self.found.path(&at.key("dockerfile"), &context, &dockerfile)?;
        let target = get("target").and_then(|(at, value)| self.found.text(&at, value));
        let args = get("args").map(|(at, value)| values::variables(self.found, &at, value)).unwrap_or_default();
        Some(Build { context, dockerfile, target, args })
    }

    fn env_files(&mut self, at: &At, value: &Value) -> BTreeMap<String, String> {
        let alone = [value.clone()];
        let items: &[Value] = value.as_array().map_or(&alone, Vec::as_slice);
        let mut out = BTreeMap::new();
        for item in items {
            let required = item.get("required") != Some(&Value::Bool(false));
            let item = item.get("path").unwrap_or(item);
            let Some(path) = self.found.text(at, item) else { continue };
            let Some(path) = self.found.path(at, folder_of(self.file), &path) else { continue };
            match self.source.file(&path) {
                Ok(content) => {
                    out.extend(values::env_file(self.found, at, &String::from_utf8_lossy(&content)));
                }
                Err(_) if !required => {}
                Err(why) => {
                    let hint = "commit it, or say `required: false`; a file of your machine alone is never read";
                    self.found.refuse(at, format!("`{}` is not in the base commit: {why}", shown(&path)), hint);
                }
            }
        }
        out
    }

    fn health(&mut self, at: &At, value: &Value, service: &mut ServiceDescription) {
        let Some(entries) = value.as_object() else {
            self.found.refuse(at, "must be a mapping", "write `{test: …}`");
            return;
        };
        let known = ["test", "interval", "timeout", "retries", "start_period", "start_interval", "disable"];
        for key in entries.keys().filter(|key| !known.contains(&key.as_str()) && !key.starts_with("x-")) {
            self.found.refuse(
                &at.key(key),
                format!("is not known: `{}`", shown(key)),
                format!("known: {}", known.join(", ")),
            );
        }
        if entries.get("disable") == Some(&Value::Bool(true)) {
            service.ready = Ready::Started;
            return;
        }
        let test = at.key("test");
        match entries.get("test") {
            None | Some(Value::Null) => {}
            Some(Value::String(script)) => service.ready = Ready::Command(shell(script)),
            Some(value) => {
                let Some(words) = self.found.texts(&test, value) else { return };
                match words.split_first() {
                    Some((kind, _)) if kind == "NONE" => service.ready = Ready::Started,
                    Some((kind, [script])) if kind == "CMD-SHELL" => service.ready = Ready::Command(shell(script)),
                    Some((kind, command)) if kind == "CMD" && !command.is_empty() => {
                        service.ready = Ready::Command(command.to_vec());
                    }
                    _ => {
                        let hint = "write a text, `[CMD, program, …]`, `[CMD-SHELL, text]` or `[NONE]`";
                        self.found.refuse(&test, "is no check", hint);
                    }
                }
            }
        }
        // Docker's own defaults: every 30 s, 30 s each, three times.
        let mut time = |key: &str, default: u64| match entries.get(key).filter(|value| !value.is_null()) {
            None => default,
            Some(value) => {
                let text = self.found.text(&at.key(key), value).unwrap_or_default();
                values::seconds(&text).unwrap_or_else(|| {
                    let message = format!("`{}` is not a duration", shown(&text));
                    self.found.refuse(&at.key(key), message, "write `10s` or `1m30s`");
                    default
                })
            }
        };
        let once = time("interval", 30).saturating_add(time("timeout", 30));
        let start = time("start_period", 0);
        let retries = entries.get("retries").and_then(Value::as_u64).unwrap_or(3);
        let patient = start.saturating_add(once.saturating_mul(retries));
        service.ready_within_s = service.ready_within_s.max(patient).min(READY_MAX_S);
    }

    fn tmpfs(&mut self, at: &At, value: &Value, service: &mut ServiceDescription) {
        let alone = [value.clone()];
        let items: &[Value] = value.as_array().map_or(&alone, Vec::as_slice);
        for item in items {
            let Some(text) = self.found.text(at, item) else { continue };
            let (path, options) = text.split_once(':').unwrap_or((&text, ""));
            if !path.starts_with('/') {
                self.found.refuse(at, format!("has `{}`, which is no absolute path", shown(path)), "write `/path`");
                continue;
            }
            let size = options.split(',').find_map(|option| option.strip_prefix("size=")).and_then(values::bytes);
            service.tmpfs.insert(path.to_owned(), size);
        }
    }

    fn networks(&mut self, at: &At, value: &Value, service: &mut ServiceDescription) {
        let names: Vec<String> = match value {
            Value::Array(_) => self.found.texts(at, value).unwrap_or_default(),
            Value::Object(entries) => {
                for (name, options) in entries {
                    if let Some(aliases) = options.get("aliases") {
                        let at = at.key(name).key("aliases");
                        service.aliases.extend(self.found.texts(&at, aliases).unwrap_or_default());
                    }
                }
                entries.keys().cloned().collect()
            }
            _ => {
                self.found.refuse(at, "must be a list or a mapping", "leave it out: there is one network");
                return;
            }
        };
        for name in names {
            let declared = self.root.get("networks").and_then(|networks| networks.get(&name));
            let Some(declared) = declared else {
                if name != "default" {
                    let message = format!("names the network `{}`, which is not declared", shown(&name));
                    self.found.refuse(at, message, "leave it out: there is one network");
                }
                continue;
            };
            let set =
                |key: &str| declared.get(key).is_some_and(|value| !value.is_null() && value != &Value::Bool(false));
            let driver = declared.get("driver").and_then(Value::as_str).unwrap_or("bridge");
            if set("external") || set("driver_opts") || driver != "bridge" {
                let message = format!("joins the network `{}`, which is the host's or somebody else's", shown(&name));
                self.found.refuse(at, message, "leave it out: services share one private network");
            }
        }
    }

    fn depends(&mut self, at: &At, value: &Value, needs: &mut BTreeMap<String, bool>) {
        let Value::Object(entries) = value else {
            for name in self.found.texts(at, value).unwrap_or_default() {
                needs.insert(name, false);
            }
            return;
        };
        for (name, options) in entries {
            let condition = options.get("condition").and_then(Value::as_str).unwrap_or("service_started");
            let completed = match condition {
                "service_started" | "service_healthy" => false,
                "service_completed_successfully" => true,
                other => {
                    let hint = "known: service_started, service_healthy, service_completed_successfully";
                    self.found.refuse(&at.key(name), format!("has the condition `{}`", shown(other)), hint);
                    continue;
                }
            };
            needs.insert(name.clone(), completed);
        }
    }
}
