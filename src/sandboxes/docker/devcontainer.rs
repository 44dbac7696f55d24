//! `devcontainer.json`, read by ourselves: the container's image, user and variables. What would run on the host, or
//! reach it, is refused; what belongs to an editor is left out. Unknown here: configuration and Docker's API.

use std::collections::BTreeMap;

use jsonc_parser::{CollectOptions, ParseOptions, ast, parse_to_ast};
use serde_json::{Map, Value};

use super::super::WORKSPACE;
use super::compose::{self, Beside};
use super::description::{Build, CONTAINER_ENV, Description, Origin};
use super::image::Source;
use super::unfit::{At, Findings, Keys, Problem, Unfit, check, folder_of, is_image_name, is_user, shown};

/// The largest file, in bytes; every nested value costs stack, and the parser allows 512.
const BYTES_MAX: usize = 256 << 10;

const NOT_RUN: &str = "it is not run: put what it does into the image, or into a step of the pipeline";
const HOST: &str = "leave it out: containers of a run share nothing with the host";

/// The file's keys.
const KEYS: Keys = Keys {
    followed: &[
        "image",
        "build",
        "dockerFile",
        "context",
        "dockerComposeFile",
        "service",
        "runServices",
        "containerEnv",
        "remoteEnv",
        "containerUser",
        "remoteUser",
        "workspaceFolder",
        "workspaceMount",
        "runArgs",
        "mounts",
    ],
    silent: &[
        "$schema",
        "name",
        "customizations",
        "settings",
        "extensions",
        "devPort",
        "forwardPorts",
        "appPort",
        "portsAttributes",
        "otherPortsAttributes",
        "hostRequirements",
        "updateRemoteUserUID",
        "overrideCommand",
        "shutdownAction",
        "userEnvProbe",
        "waitFor",
        "init",
        "overrideFeatureInstallOrder",
    ],
    said: &[
        ("onCreateCommand", NOT_RUN),
        ("updateContentCommand", NOT_RUN),
        ("postCreateCommand", NOT_RUN),
        ("postStartCommand", NOT_RUN),
        ("postAttachCommand", NOT_RUN),
        ("secrets", "secrets are named by the steps of a pipeline"),
    ],
    refused: &[
        ("initializeCommand", "runs on the host", "leave it out, or put what it does into the image"),
        ("privileged", "makes the container the host's master", HOST),
        ("capAdd", "asks for capabilities", HOST),
        ("securityOpt", "loosens what confines the container", HOST),
        (
            "features",
            "are fetched from registries and run as root at the build",
            "put what they install into the image",
        ),
    ],
};

/// Its `build`.
const BUILD: Keys = Keys {
    followed: &["dockerfile", "context", "target", "args"],
    silent: &["cacheFrom"],
    said: &[],
    refused: &[("options", "are options of another program", "write what they do into the Dockerfile")],
};

/// `docker run` options that mean nothing here; `true` if a value follows.
const HARMLESS: [(&str, bool); 9] = [
    ("--init", false),
    ("--rm", false),
    ("--name", true),
    ("--hostname", true),
    ("--label", true),
    ("--memory", true),
    ("--cpus", true),
    ("--shm-size", true),
    ("--pids-limit", true),
];

/// What parses YAML, given a file's path and content: the reader is not ours to know.
pub type Yaml<'a> = &'a dyn Fn(&str, &[u8]) -> Result<Value, String>;

/// Reads the text of a `devcontainer.json`; `file` is its path in the repository. `yaml` parses a compose file that it
/// names; it may leave merge keys.
///
/// # Errors
/// [`Unfit`] with everything that is wrong; if it is in the compose file, with that alone.
pub fn read(text: &str, file: &str, source: &dyn Source, yaml: Yaml<'_>) -> Result<Description, Unfit> {
    let document = parse(text).map_err(|message| Unfit {
        file: file.to_owned(),
        problems: vec![Problem {
            pointer: String::new(),
            message,
            hint: "a devcontainer.json is JSON with comments".to_owned(),
        }],
    })?;
    let mut found = Findings::default();
    let at = At::default();
    let Some(entries) = document.as_object() else {
        found.refuse(&at, "must be an object", "write `{\"image\": \"…\"}`");
        return Err(found.unfit(file));
    };
    check(&mut found, &at, entries, &KEYS);
    let mut reader = Reader { file, entries, found };
    reader.run_args();
    reader.mounts();
    reader.workspace();
    let env = reader.env();
    let user = reader.user();
    let base = match entries.get("dockerComposeFile").filter(|value| !value.is_null()) {
        Some(value) => reader.compose(value, source, yaml)?,
        None => reader.origin().map(|origin| Description {
            origin,
            env: BTreeMap::new(),
            user: None,
            services: Vec::new(),
            said: Vec::new(),
        }),
    };
    let said = reader.found.close(file)?;
    let Some(mut base) = base else { return Err(Unfit { file: file.to_owned(), problems: Vec::new() }) };
    base.env.extend(env);
    base.user = user.or(base.user);
    base.said.extend(said);
    Ok(base)
}

struct Reader<'a> {
    file: &'a str,
    entries: &'a Map<String, Value>,
    found: Findings,
}

impl<'a> Reader<'a> {
    fn get(&self, key: &str) -> Option<(At, &'a Value)> {
        self.entries.get(key).filter(|value| !value.is_null()).map(|value| (At::default().key(key), value))
    }

    fn text(&mut self, at: &At, value: &Value) -> Option<String> {
        let text = self.found.text(at, value)?;
        match substituted(&text) {
            Ok(text) => Some(text),
            Err(why) => {
                self.found.refuse(at, why, "write the value, or a default: `${localEnv:NAME:value}`");
                None
            }
        }
    }

    fn origin(&mut self) -> Option<Origin> {
        let old = self.get("dockerFile");
        let (at, build) = match (self.get("build"), self.get("image")) {
            (Some((at, Value::Object(build))), _) => (at, build.clone()),
            (Some((at, _)), _) => {
                self.found.refuse(&at, "must be an object", "write `{\"dockerfile\": \"Dockerfile\"}`");
                return None;
            }
            (None, _) if old.is_some() => (At::default(), Map::new()),
            (None, Some((at, image))) => {
                let image = self.text(&at, image)?;
                if !is_image_name(&image) {
                    self.found.refuse(&at, format!("`{}` is not an image's name", shown(&image)), "write `name:tag`");
                    return None;
                }
                return Some(Origin::Image(image));
            }
            (None, None) => {
                let hint = "say what the container is made from: `image`, `build` or `dockerComposeFile`";
                self.found.refuse(&At::default(), "has neither", hint);
                return None;
            }
        };
        check(&mut self.found, &at, &build, &BUILD);
        let folder = folder_of(self.file);
        let of = |key: &str| build.get(key).filter(|value| !value.is_null()).map(|value| (at.key(key), value.clone()));
        let dockerfile = of("dockerfile").or_else(|| old.map(|(at, value)| (at, value.clone())));
        let Some((named, dockerfile)) = dockerfile else {
            self.found.refuse(&at, "names no `dockerfile`", "write `\"dockerfile\": \"Dockerfile\"`");
            return None;
        };
        let dockerfile = self.text(&named, &dockerfile)?;
        let dockerfile = self.found.path(&named, folder, &dockerfile)?;
        let context = of("context").or_else(|| self.get("context").map(|(at, value)| (at, value.clone())));
        let context = match context {
            Some((at, value)) => {
                let path = self.text(&at, &value)?;
                self.found.path(&at, folder, &path)?
            }
            None => folder.to_owned(),
        };
        let target = of("target").and_then(|(at, value)| self.text(&at, &value));
        let args = of("args").map(|(at, value)| self.variables(&at, &value)).unwrap_or_default();
        Some(Origin::Build(Build { context, dockerfile, target, args }))
    }

    fn compose(&mut self, value: &Value, source: &dyn Source, yaml: Yaml<'_>) -> Result<Option<Description>, Unfit> {
        let at = At::default().key("dockerComposeFile");
        let path = match value {
            Value::Array(items) if items.len() == 1 => self.text(&at, &items[0]),
            Value::Array(_) => {
                self.found.refuse(&at, "names several files", "one is read: put the services into it");
                None
            }
            value => self.text(&at, value),
        };
        let Some((named, service)) = self.get("service") else {
            let hint = "name the service of the compose file that commands run in";
            self.found.refuse(&At::default(), "has a compose file but no `service`", hint);
            return Ok(None);
        };
        let beside = self.get("runServices").map(|(at, value)| self.found.texts(&at, value).unwrap_or_default());
        let (Some(path), Some(service)) = (path, self.text(&named, service)) else { return Ok(None) };
        let Some(path) = self.found.path(&at, folder_of(self.file), &path) else { return Ok(None) };
        let read = source.file(&path).and_then(|content| yaml(&path, &content));
        match read {
            Ok(document) => {
                let beside = beside.as_deref().map_or(Beside::All, Beside::Named);
                compose::read(&document, &path, Some(&service), beside, source).map(Some)
            }
            Err(why) => {
                let message = format!("`{}` cannot be read: {why}", shown(&path));
                self.found.refuse(&at, message, "mend that file, or commit it");
                Ok(None)
            }
        }
    }

    fn variables(&mut self, at: &At, value: &Value) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        let Some(entries) = value.as_object() else {
            self.found.refuse(at, "must be an object", "write `{\"NAME\": \"value\"}`");
            return out;
        };
        for (name, value) in entries {
            let at = at.key(name);
            if name.is_empty() || name.contains(['=', '\0']) || name.contains(char::is_whitespace) {
                self.found.refuse(&at, "names no variable", "write `\"NAME\": \"value\"`");
            } else if value.is_null() {
                self.found.say(format!("the variable `{}` is left as the image has it", shown(name)));
            } else if let Some(value) = self.text(&at, value) {
                out.insert(name.clone(), value);
            }
        }
        out
    }

    fn env(&mut self) -> BTreeMap<String, String> {
        let mut env = BTreeMap::new();
        if let Some((at, value)) = self.get("containerEnv") {
            env = self.variables(&at, value);
        }
        if let Some((at, value)) = self.get("remoteEnv") {
            let container = env.clone();
            for (name, mut value) in self.variables(&at, value) {
                // What the image knows is put in later; what this file says of the container is known now.
                for (known, own) in &container {
                    value = value.replace(&format!("{CONTAINER_ENV}{known}}}"), own);
                }
                env.insert(name, value);
            }
        }
        env
    }

    fn user(&mut self) -> Option<String> {
        let (at, value) = self.get("remoteUser").or_else(|| self.get("containerUser"))?;
        let user = self.text(&at, value)?;
        if is_user(&user) {
            return Some(user);
        }
        self.found.refuse(&at, format!("`{}` is not a user", shown(&user)), "write a name or a number");
        None
    }

    fn workspace(&mut self) {
        if let Some((_, folder)) = self.get("workspaceFolder").filter(|(_, folder)| folder.as_str() != Some(WORKSPACE))
        {
            let folder = folder.as_str().map_or_else(String::new, |folder| format!(" and not at `{}`", shown(folder)));
            self.found.say(format!("the repository is at {WORKSPACE}{folder}"));
        }
        if self.get("workspaceMount").is_some() {
            self.found.say(format!("`workspaceMount` is left out: the run's workspace is at {WORKSPACE}"));
        }
    }

    fn mounts(&mut self) {
        let Some((at, value)) = self.get("mounts") else { return };
        let Some(items) = value.as_array() else {
            self.found.refuse(&at, "must be a list", "leave it out");
            return;
        };
        for (index, item) in items.iter().enumerate() {
            let at = at.index(index);
            let kind = match item {
                Value::Object(entries) => entries.get("type").and_then(Value::as_str).unwrap_or("volume"),
                Value::String(text) => {
                    text.split(',').find_map(|part| part.trim().strip_prefix("type=")).unwrap_or("volume")
                }
                _ => "",
            };
            let text = item.to_string();
            if text.contains("docker.sock") {
                self.found.refuse(&at, "gives Docker's socket", "leave it out: who has it rules the host");
            } else if !matches!(kind, "volume" | "tmpfs") {
                self.found.refuse(&at, "shares a folder of the host", HOST);
            } else {
                self.found.say("`mounts` of volumes are left out: files outside the workspace go with the run");
            }
        }
    }

    fn run_args(&mut self) {
        let Some((at, value)) = self.get("runArgs") else { return };
        let mut args = self.found.texts(&at, value).unwrap_or_default().into_iter();
        while let Some(arg) = args.next() {
            let (name, inline) = arg.split_once('=').map_or((arg.as_str(), false), |(name, _)| (name, true));
            match HARMLESS.iter().find(|(known, _)| *known == name) {
                Some((_, valued)) => {
                    self.found.say(format!("`{name}` of `runArgs` is left out"));
                    if *valued && !inline {
                        args.next();
                    }
                }
                None => {
                    let hint = "leave it out; variables belong into `containerEnv`, a user into `remoteUser`";
                    self.found.refuse(&at, format!("has `{}`, which may reach the host", shown(&arg)), hint);
                    // What follows without a dash is most likely its value.
                    while args.as_slice().first().is_some_and(|next| !next.starts_with('-')) {
                        args.next();
                    }
                }
            }
        }
    }
}

/// The text with the variables of a `devcontainer.json` replaced; those of the container are left for later.
fn substituted(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let Some((inner, after)) = after.split_once('}') else {
            return Err(format!("`{}` has a `${{` without `}}`", shown(text)));
        };
        let (kind, name) = inner.split_once(':').unwrap_or((inner, ""));
        match kind {
            "localEnv" | "env" => match name.split_once(':') {
                Some((_, default)) => out.push_str(default),
                None => {
                    return Err(format!(
                        "asks for `{}` of the engine's environment, which no container sees",
                        shown(name)
                    ));
                }
            },
            "containerEnv" if !name.is_empty() => {
                out.push_str(CONTAINER_ENV);
                out.push_str(name);
                out.push('}');
            }
            "containerWorkspaceFolder" => out.push_str(WORKSPACE),
            "containerWorkspaceFolderBasename" | "localWorkspaceFolderBasename" => {
                out.push_str(WORKSPACE.trim_start_matches('/'));
            }
            "localWorkspaceFolder" => return Err("asks for a path of the host, which no container sees".to_owned()),
            _ => return Err(format!("`${{{}}}` is not known", shown(inner))),
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// JSON with comments and trailing commas, and nothing else of what is called JSON.
fn parse(text: &str) -> Result<Value, String> {
    if text.len() > BYTES_MAX {
        return Err(format!("has {} bytes; {BYTES_MAX} are allowed", text.len()));
    }
    let options = ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let parsed = parse_to_ast(text, &CollectOptions::default(), &options).map_err(|error| error.to_string())?;
    let value = parsed.value.ok_or("is empty")?;
    if let Some(name) = repeated(&value) {
        return Err(format!("has `{}` twice", shown(&name)));
    }
    Ok(value.into())
}

/// A name that stands twice in one object: two readers would take two different ones.
fn repeated(value: &ast::Value<'_>) -> Option<String> {
    match value {
        ast::Value::Object(object) => {
            let mut seen = std::collections::HashSet::new();
            object.properties.iter().find_map(|property| {
                let name = property.name.as_str();
                if seen.insert(name) { repeated(&property.value) } else { Some(name.to_owned()) }
            })
        }
        ast::Value::Array(array) => array.elements.iter().find_map(repeated),
        _ => None,
    }
}
