//! Compose files, read by ourselves: what a run's base commit says of the commands' container and of those beside it.
//!
//! A compose file of a repository is somebody else's text, so every key is on a list: followed, left out in silence
//! because it cannot matter here, left out and said, or refused because it reaches the host or would be missed. A key
//! on no list is refused. Nothing is asked of the environment, and no file outside the commit is read. Unknown here:
//! YAML, configuration, and Docker's API.

mod interpolate;
mod keys;
mod service;
mod values;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::description::{Description, Ready, ServiceDescription};
use super::image::Source;
use super::services::is_host_name;
use super::unfit::{At, Findings, Unfit, check, nearest, shown};
use service::{Read, Reader};

/// What runs beside the commands' container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside<'a> {
    /// What it depends on, as with `docker compose run`.
    Needed,
    /// Everything that has no profile, as with `docker compose up`.
    All,
    /// These, and what they and it depend on.
    Named(&'a [String]),
}

/// Reads a parsed compose file. `file` is its path in the repository, `service` the one that commands run in: it may be
/// left out if there is one only. Merge keys (`<<`) may still stand in the document.
///
/// # Errors
/// [`Unfit`] with everything that is wrong with the services that would run.
pub fn read(
    document: &Value,
    file: &str,
    service: Option<&str>,
    beside: Beside<'_>,
    source: &dyn Source,
) -> Result<Description, Unfit> {
    let mut found = Findings::default();
    let described = whole(document, file, service, beside, source, &mut found);
    let said = found.close(file)?;
    // Without a problem there is a description; a reader that gives up says why.
    let (own, services) = described.ok_or_else(|| Unfit { file: file.to_owned(), problems: Vec::new() })?;
    let ServiceDescription { origin, env, user, .. } = own;
    Ok(Description { origin, env, user, services, said })
}

fn whole(
    document: &Value,
    file: &str,
    service: Option<&str>,
    beside: Beside<'_>,
    source: &dyn Source,
    found: &mut Findings,
) -> Option<(ServiceDescription, Vec<ServiceDescription>)> {
    let top = At::default();
    let document = merged(found, &top, document);
    let Some(root) = document.as_object() else {
        found.refuse(&top, "must be a mapping", "a compose file has a `services:` mapping");
        return None;
    };
    check(found, &top, root, &keys::TOP);
    let at = top.key("services");
    let Some(services) = root.get("services").and_then(Value::as_object).filter(|services| !services.is_empty()) else {
        found.refuse(&at, "must be a mapping with a service", "write `services: {app: {image: …}}`");
        return None;
    };
    for name in services.keys().filter(|name| !is_host_name(name)) {
        let hint = "a service's name has up to 63 letters, digits, `-`, `_` and `.`";
        found.refuse(&at, format!("has `{}`, which cannot be a host name", shown(name)), hint);
    }
    let own = chosen(found, &at, services, service)?;
    let mut reader = Reader { file, root, source, found };
    let mut read: BTreeMap<String, Read> = BTreeMap::new();
    let mut wanted: Vec<String> = wanted(&mut reader, services, own, beside);
    while let Some(name) = wanted.pop() {
        if read.contains_key(&name) {
            continue;
        }
        let Some(value) = services.get(&name) else {
            let hint = nearest(&name, services.keys().map(String::as_str));
            let message = format!("has no `{}`, which another service needs", shown(&name));
            reader.found.refuse(&at, message, hint.unwrap_or_else(|| "leave it out of `depends_on`".to_owned()));
            continue;
        };
        let one = reader.service(&at.key(&name), &name, value, name == own)?;
        wanted.extend(one.needs.keys().cloned());
        read.insert(name, one);
    }
    for name in services.keys().filter(|name| !read.contains_key(*name)) {
        found.say(format!("the service `{}` is not started: nothing that runs depends on it", shown(name)));
    }
    arrange(found, &at, read, own)
}

fn chosen<'a>(
    found: &mut Findings,
    at: &At,
    services: &'a Map<String, Value>,
    wanted: Option<&str>,
) -> Option<&'a str> {
    let names = || services.keys().map(|name| shown(name)).collect::<Vec<_>>().join(", ");
    match wanted {
        Some(wanted) => match services.keys().find(|name| *name == wanted) {
            Some(name) => Some(name),
            None => {
                let hint = nearest(wanted, services.keys().map(String::as_str));
                let hint = hint.unwrap_or_else(|| format!("there are: {}", names()));
                found.refuse(at, format!("has no `{}`", shown(wanted)), hint);
                None
            }
        },
        None if services.len() == 1 => services.keys().next().map(String::as_str),
        None => {
            let hint = format!("name the one that commands run in, of: {}", names());
            found.refuse(at, "has several services", hint);
            None
        }
    }
}

fn wanted(reader: &mut Reader<'_>, services: &Map<String, Value>, own: &str, beside: Beside<'_>) -> Vec<String> {
    let mut wanted = vec![own.to_owned()];
    match beside {
        Beside::Needed => {}
        Beside::Named(names) => wanted.extend(names.iter().cloned()),
        Beside::All => {
            let without = |value: &&Value| match value.get("profiles") {
                None | Some(Value::Null) => true,
                Some(Value::Array(profiles)) => profiles.is_empty(),
                Some(_) => false,
            };
            wanted.extend(services.iter().filter(|(_, value)| without(value)).map(|(name, _)| name.clone()));
            if let Some((name, _)) = services.iter().find(|(_, value)| !without(value)) {
                reader.found.say(format!("profiles are off: `{}` is started only where another needs it", shown(name)));
            }
        }
    }
    wanted
}

/// Puts services in an order in which they can be started, and gives the commands' own apart.
fn arrange(
    found: &mut Findings,
    at: &At,
    read: BTreeMap<String, Read>,
    own: &str,
) -> Option<(ServiceDescription, Vec<ServiceDescription>)> {
    let completed: BTreeSet<String> = read
        .values()
        .flat_map(|one| one.needs.iter().filter(|(_, completed)| **completed).map(|(name, _)| name.clone()))
        .collect();
    let aliases: Vec<(String, String)> = read.values().flat_map(|one| one.links.clone()).collect();
    let mut rest: Vec<ServiceDescription> = Vec::new();
    for (name, one) in read {
        let mut service = one.service;
        service.needs = one.needs.into_keys().collect();
        service.aliases.extend(aliases.iter().filter(|(target, _)| *target == name).map(|(_, alias)| alias.clone()));
        service.aliases.sort();
        service.aliases.dedup();
        if completed.contains(&name) {
            service.ready = Ready::Completed;
        }
        rest.push(service);
    }
    let mut ordered: Vec<ServiceDescription> = Vec::new();
    while !rest.is_empty() {
        let can = |service: &ServiceDescription| {
            service.needs.iter().all(|need| ordered.iter().any(|ready| ready.name == *need))
        };
        let (now, later): (Vec<_>, Vec<_>) = rest.into_iter().partition(can);
        if now.is_empty() {
            let names: Vec<String> = later.iter().map(|service| format!("`{}`", service.name)).collect();
            let message = format!("has services that wait for each other: {}", names.join(", "));
            found.refuse(at, message, "break the circle in `depends_on`");
            return None;
        }
        ordered.extend(now);
        rest = later;
    }
    let index = ordered.iter().position(|service| service.name == own)?;
    let own = ordered.remove(index);
    if let Some(service) = ordered.iter().find(|service| service.needs.contains(&own.name)) {
        let at = at.key(&service.name).key("depends_on");
        found.refuse(&at, "names the service that commands run in, which has no start of its own", "turn it round");
    }
    Some((own, ordered))
}

/// The document without merge keys: what is written out wins, then earlier sources.
fn merged(found: &mut Findings, at: &At, value: &Value) -> Value {
    match value {
        Value::Array(items) => {
            Value::Array(items.iter().enumerate().map(|(n, item)| merged(found, &at.index(n), item)).collect())
        }
        Value::Object(entries) => {
            let mut out = Map::new();
            let mut below = Vec::new();
            for (key, value) in entries {
                let value = merged(found, &at.key(key), value);
                match (key.as_str(), value) {
                    ("<<", Value::Array(sources)) => below.extend(sources),
                    ("<<", source) => below.push(source),
                    (_, value) => drop(out.insert(key.clone(), value)),
                }
            }
            for source in below {
                let Value::Object(source) = source else {
                    found.refuse(at, "merges (`<<`) what is no mapping", "merge an alias of a mapping: `<<: *name`");
                    continue;
                };
                for (key, value) in source {
                    out.entry(key).or_insert(value);
                }
            }
            Value::Object(out)
        }
        value => value.clone(),
    }
}
