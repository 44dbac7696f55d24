//! Volumes of a service: folders of its own, or copies of files of the base commit; never a folder of the host.

use serde_json::{Map, Value};

use super::super::description::{Copied, ServiceDescription};
use super::super::unfit::{At, Findings, folder_of, shown};
use super::values::bytes;

const INSTEAD: &str =
    "use a named volume, which is empty and the run's own, or a path in the repository, which is copied";

/// What a volume is.
enum Kind<'a> {
    Own,
    Named(&'a str),
    Path(&'a str),
    Memory(Option<u64>),
}

/// Reads `volumes:` of a service. `own` is whether commands run in it.
pub(super) fn read(
    found: &mut Findings,
    at: &At,
    value: &Value,
    (file, root, own): (&str, &Map<String, Value>, bool),
    service: &mut ServiceDescription,
) {
    let Value::Array(items) = value else {
        found.refuse(at, "must be a list", "write `[data:/var/lib/data]`");
        return;
    };
    for (index, item) in items.iter().enumerate() {
        let at = at.index(index);
        let Some((kind, target)) = parts(found, &at, item) else { continue };
        if !target.starts_with('/') || target.contains([':', '\0', '$']) || target.split('/').any(|part| part == "..") {
            let hint = "write an absolute path of the container behind the `:`";
            found.refuse(&at, format!("has `{}`, which is no place in a container", shown(target)), hint);
            continue;
        }
        match kind {
            Kind::Path(path) if path.ends_with("docker.sock") || target.ends_with("docker.sock") => {
                let hint = "leave it out: who has it rules the host";
                found.refuse(&at, "gives Docker's socket", hint);
            }
            Kind::Path(path) => {
                let Some(from) = found.path(&at, folder_of(file), path) else { continue };
                if own {
                    let shown =
                        if from.is_empty() { "the repository".to_owned() } else { format!("`{}`", shown(&from)) };
                    found.say(format!("{shown} is at /workspace and not at `{}`", super::super::unfit::shown(target)));
                } else {
                    let what = if from.is_empty() { "the repository" } else { from.as_str() };
                    found.say(format!(
                        "`{}` gets a copy of `{}` as it is in the base commit",
                        service.name,
                        shown(what)
                    ));
                    service.copies.push(Copied { from, to: target.trim_end_matches('/').to_owned() });
                }
            }
            Kind::Named(name) => {
                if !named(found, &at, root, name) {
                    continue;
                }
                if own {
                    found.say(format!("the volume `{}` is left out where commands run", shown(name)));
                } else {
                    found.say(format!("the volume `{}` is empty and removed with `{}`", shown(name), service.name));
                    service.volumes.push(target.to_owned());
                }
            }
            Kind::Own if own => found.say(format!("the volume at `{}` is left out where commands run", shown(target))),
            Kind::Own => service.volumes.push(target.to_owned()),
            Kind::Memory(size) => drop(service.tmpfs.insert(target.to_owned(), size)),
        }
    }
}

fn parts<'a>(found: &mut Findings, at: &At, item: &'a Value) -> Option<(Kind<'a>, &'a str)> {
    match item {
        Value::String(text) => {
            let mut parts = text.splitn(3, ':');
            Some(match (parts.next().unwrap_or_default(), parts.next()) {
                (target, None) => (Kind::Own, target),
                // A drive's letter is as much the host's as a path is.
                (source, Some(target)) if source.starts_with(['.', '/', '~', '\\']) || source.contains(['/', '\\']) => {
                    (Kind::Path(source), target)
                }
                (source, Some(target)) => (Kind::Named(source), target),
            })
        }
        Value::Object(entries) => {
            let text = |key: &str| entries.get(key).and_then(Value::as_str);
            let Some(target) = text("target") else {
                found.refuse(at, "has no `target`", "say where it is in the container: `target: /data`");
                return None;
            };
            match (text("type"), text("source")) {
                (Some("tmpfs"), _) => {
                    let size = entries.get("tmpfs").and_then(|options| options.get("size"));
                    let size =
                        size.and_then(|size| bytes(&size.as_str().map_or_else(|| size.to_string(), str::to_owned)));
                    Some((Kind::Memory(size), target))
                }
                (Some("volume"), Some(name)) => Some((Kind::Named(name), target)),
                (Some("volume"), None) => Some((Kind::Own, target)),
                (Some("bind"), Some(path)) => Some((Kind::Path(path), target)),
                (kind, _) => {
                    let kind = kind.unwrap_or("nothing");
                    found.refuse(at, format!("has the type `{}`", shown(kind)), INSTEAD);
                    None
                }
            }
        }
        _ => {
            found.refuse(at, "must be text or a mapping", "write `name:/path`");
            None
        }
    }
}

/// Whether a named volume is one that may be replaced by an empty one.
fn named(found: &mut Findings, at: &At, root: &Map<String, Value>, name: &str) -> bool {
    let Some(declared) = root.get("volumes").and_then(|volumes| volumes.get(name)) else {
        let hint = format!("declare it: `volumes: {{{}: {{}}}}`", shown(name));
        found.refuse(at, format!("names the volume `{}`, which is not declared", shown(name)), hint);
        return false;
    };
    if declared.get("external").is_some_and(|external| external != &Value::Bool(false)) {
        found.refuse(at, format!("names the volume `{}`, which is somebody else's", shown(name)), INSTEAD);
        return false;
    }
    let options = declared.get("driver_opts").and_then(Value::as_object);
    if options.is_some_and(|options| !options.is_empty()) {
        found.refuse(
            at,
            format!("names the volume `{}`, which is a folder of the host or elsewhere", shown(name)),
            INSTEAD,
        );
        return false;
    }
    true
}
