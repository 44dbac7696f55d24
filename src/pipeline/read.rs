//! Reads a pipeline: goes over the whole tree once and lists every mistake where it stands.

mod names;
mod values;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use self::values::looks_like_template;
pub(crate) use self::values::parse_duration;
use super::{Input, InputKind, Limits, Pipeline, StepDef};
use crate::core::graph::{Authority, OnFailure, Retry};
use crate::core::id::StepId;
use crate::core::plan::sha256;
use crate::core::service::Services;
use crate::steps::{KINDS, Kind as StepKind};
use crate::yaml::{Diagnostic, Document, Key, Kind, Node, Span};

/// The most steps of a pipeline.
const STEPS_MAX: usize = 10_000;
const TOP_KEYS: &[&str] = &["name", "description", "inputs", "limits", "steps"];
const LIMIT_KEYS: &[&str] = &["usd", "tokens", "wall"];
const INPUT_KEYS: &[&str] = &["type", "required", "default", "enum", "description"];
/// Keys that every step takes.
const STEP_KEYS: &[&str] = &[
    "type",
    "needs",
    "if",
    "timeout",
    "retry",
    "on_failure",
    "always",
    "env",
    "network",
    "secrets",
    "services",
    "description",
];
/// Keys and types of the language that this version refuses by name, so that nobody believes that they work.
const LATER_KEYS: &[&str] = &["for_each", "max_parallel", "concurrency"];
const LATER_TYPES: &[&str] = &["ask", "review", "prompt", "http", "pipeline"];
/// Variables of a command that the engine sets itself.
const RESERVED_ENV: &[&str] = &["PATH", "HOME", "LANG", "TZ"];

/// Reads a pipeline out of a parsed file.
pub fn read(document: &Document) -> Result<Pipeline, Vec<Diagnostic>> {
    read_node(document, &document.root)
}

/// Reads a pipeline that stands inside a file (a task's inline pipeline).
pub(super) fn read_node(document: &Document, root: &Node) -> Result<Pipeline, Vec<Diagnostic>> {
    let mut reader = Reader::new(document);
    let pipeline = reader.pipeline(root);
    if reader.wrong.is_empty() {
        return Ok(pipeline);
    }
    reader.wrong.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
    reader.wrong.dedup();
    Err(reader.wrong)
}

pub(super) struct Reader<'d> {
    document: &'d Document,
    pub wrong: Vec<Diagnostic>,
    /// By step type: making one costs more than using it.
    validators: BTreeMap<&'static str, jsonschema::Validator>,
}

/// A step before its names are resolved.
struct Draft<'d> {
    key: &'d Key,
    node: &'d Node,
    def: StepDef,
    kind: Option<&'static StepKind>,
    needs: Vec<(String, Span)>,
    targets: Vec<(&'static str, String, Span)>,
}

impl<'d> Reader<'d> {
    pub fn new(document: &'d Document) -> Self {
        Self { document, wrong: Vec::new(), validators: BTreeMap::new() }
    }

    pub fn fault(&mut self, span: Span, code: &'static str, message: impl Into<String>) -> &mut Diagnostic {
        self.wrong.push(self.document.diagnostic(span, code, message));
        self.wrong.last_mut().expect("just pushed")
    }

    pub(super) fn advise(&mut self, advice: impl FnOnce(Diagnostic) -> Diagnostic) {
        if let Some(last) = self.wrong.pop() {
            self.wrong.push(advice(last));
        }
    }

    pub fn pipeline(&mut self, root: &'d Node) -> Pipeline {
        let entries = self.map(root, "a pipeline");
        self.known_keys(entries, TOP_KEYS, "a pipeline");
        let file = std::path::Path::new(&self.document.file);
        let stem = file.file_stem().map_or("pipeline".to_owned(), |stem| stem.to_string_lossy().into_owned());
        let name = root.get("name").and_then(|node| self.text(node, "`name`")).unwrap_or(stem);
        let description = root.get("description").and_then(|node| self.text(node, "`description`"));
        let inputs = root.get("inputs").map_or_else(Vec::new, |node| self.inputs(node));
        let limits = root.get("limits").map_or_else(Limits::default, |node| self.limits(node));
        let steps = match root.get("steps") {
            Some(node) => self.steps(node, &inputs, &limits),
            None => {
                self.fault(root.span.clone(), "missing_key", "a pipeline needs `steps`");
                Vec::new()
            }
        };
        let text = self.document.text.clone();
        let hash = sha256(root.to_json().to_string().as_bytes());
        Pipeline { name, description, inputs, limits, steps, text, hash }
    }

    fn inputs(&mut self, node: &'d Node) -> Vec<(String, Input)> {
        let mut inputs = Vec::new();
        for (key, node) in self.map(node, "`inputs`") {
            let what = format!("input `{}`", key.text);
            let entries = self.map(node, &what);
            self.known_keys(entries, INPUT_KEYS, &what);
            let named = node.get("type").and_then(|node| Some((self.text(node, "`type`")?, node.span.clone())));
            let kind = match named {
                None => InputKind::String,
                Some((name, span)) => match InputKind::NAMES.iter().find(|(known, _)| *known == name) {
                    Some((_, kind)) => *kind,
                    None => {
                        self.fault(span, "unknown_type", format!("`{name}` is not a type of input"));
                        self.advise(|fault| fault.suggest(&name, InputKind::NAMES.map(|(known, _)| known)));
                        InputKind::String
                    }
                },
            };
            let required = node.get("required").is_some_and(|node| self.boolean(node, "`required`"));
            let description = node.get("description").and_then(|node| self.text(node, "`description`"));
            let choices = node.get("enum").map(|node| match &node.kind {
                Kind::List(items) => {
                    items.iter().filter(|item| self.value_fits(item, kind, &what)).map(Node::to_json).collect()
                }
                _ => {
                    self.fault(node.span.clone(), "wrong_type", "`enum` must be a list");
                    Vec::new()
                }
            });
            let default = node.get("default").filter(|node| self.value_fits(node, kind, &what));
            if let Some(default) = default {
                if required {
                    self.fault(
                        default.span.clone(),
                        "useless_default",
                        format!("{what} is required, so its default is never used"),
                    );
                }
                if choices.as_ref().is_some_and(|choices: &Vec<Value>| !choices.contains(&default.to_json())) {
                    self.fault(
                        default.span.clone(),
                        "bad_default",
                        format!("the default of {what} is not one of its `enum`"),
                    );
                }
            }
            inputs.push((
                key.text.clone(),
                Input { kind, required, default: default.map(Node::to_json), choices, description },
            ));
        }
        inputs
    }

    fn value_fits(&mut self, node: &Node, kind: InputKind, what: &str) -> bool {
        let fits = kind.fits(&node.to_json());
        if !fits {
            let message = format!("{what} is a {}, and this is {}", kind.name(), node.describe());
            self.fault(node.span.clone(), "wrong_type", message);
        }
        fits
    }

    fn limits(&mut self, node: &'d Node) -> Limits {
        let entries = self.map(node, "`limits`");
        self.known_keys(entries, LIMIT_KEYS, "`limits`");
        Limits {
            usd: node.get("usd").and_then(|node| self.dollars(node, "`usd`")),
            tokens: node.get("tokens").and_then(|node| self.whole(node, "`tokens`", 1)),
            wall_ms: node.get("wall").and_then(|node| self.duration(node, "`wall`")),
        }
    }

    fn steps(&mut self, node: &'d Node, inputs: &[(String, Input)], limits: &Limits) -> Vec<StepDef> {
        let entries = self.map(node, "`steps`");
        if entries.is_empty() && matches!(node.kind, Kind::Map(_)) {
            self.fault(node.span.clone(), "missing_key", "a pipeline needs at least one step");
        }
        if entries.len() > STEPS_MAX {
            self.fault(node.span.clone(), "too_many", format!("{} steps; {STEPS_MAX} are allowed", entries.len()));
            return Vec::new();
        }
        let mut drafts: Vec<Draft<'d>> =
            entries.iter().filter_map(|(key, node)| self.draft(key, node, limits)).collect();
        self.resolve(&mut drafts);
        self.graph(&drafts);
        self.templates(&mut drafts, inputs);
        drafts.into_iter().map(|draft| draft.def).collect()
    }

    fn draft(&mut self, key: &'d Key, node: &'d Node, limits: &Limits) -> Option<Draft<'d>> {
        let id = match StepId::new(&key.text) {
            Ok(id) => Some(id),
            Err(error) => {
                self.fault(key.span.clone(), "bad_id", error.to_string());
                None
            }
        };
        let what = format!("step `{}`", key.text);
        let entries = self.map(node, &what);
        let kind = self.kind(key, node, &what);
        self.step_keys(entries, kind, &what);
        let timeout_ms = node.get("timeout").and_then(|node| self.duration(node, "`timeout`"));
        if let (Some(timeout), Some(wall), Some(node)) = (timeout_ms, limits.wall_ms, node.get("timeout"))
            && timeout > wall
        {
            self.fault(node.span.clone(), "impossible_limit", "this `timeout` is longer than the run's `limits.wall`");
        }
        let mut targets = Vec::new();
        let on_failure = node.get("on_failure").map_or(OnFailure::Stop, |node| self.on_failure(node, &mut targets));
        if kind.is_some_and(|kind| kind.authority == Authority::Approves)
            && let Some(node) = node.get("revise")
            && let Some(name) = self.text(node, "`revise`")
        {
            targets.push(("revise", name, node.span.clone()));
        }
        let needs = node.get("needs").map_or_else(Vec::new, |node| self.needs(node));
        let spec = self.spec(entries, kind, node, &what);
        let def = StepDef {
            id: id?,
            kind: kind.map_or_else(String::new, |kind| kind.name.to_owned()),
            needs: Vec::new(),
            condition: node.get("if").and_then(|node| self.condition(node)),
            timeout_ms,
            retry: node.get("retry").map_or_else(Retry::default, |node| self.retry(node)),
            on_failure,
            always: node.get("always").is_some_and(|node| self.boolean(node, "`always`")),
            env: node.get("env").map_or_else(Vec::new, |node| self.env(node)),
            network: node.get("network").and_then(|node| self.network(node)),
            secrets: node.get("secrets").map_or_else(Vec::new, |node| self.secrets(node, kind, &what)),
            services: node.get("services").map_or_else(Services::new, |node| self.services(node)),
            revise: None,
            spec,
            references: BTreeSet::new(),
        };
        if let Some(name) = def.secrets.iter().find(|name| def.env.iter().any(|(own, _)| own == *name)) {
            let span = node.get("secrets").map_or(0..0, |node| node.span.clone());
            self.fault(span, "duplicate_name", format!("{what} has `{name}` in `env` as well as in `secrets`"));
        }
        if let Some(node) = node.get("description") {
            self.text(node, "`description`");
        }
        Some(Draft { key, node, def, kind, needs, targets })
    }

    fn kind(&mut self, key: &Key, node: &Node, what: &str) -> Option<&'static StepKind> {
        let Some(named) = node.get("type") else {
            self.fault(key.span.clone(), "missing_key", format!("{what} needs a `type`"));
            self.advise(|fault| fault.help(format!("known types: {}", type_names().join(", "))));
            return None;
        };
        let name = self.text(named, "`type`")?;
        if LATER_TYPES.contains(&name.as_str()) {
            self.fault(
                named.span.clone(),
                "not_available",
                format!("the step type `{name}` is not available in this version"),
            );
            self.advise(|fault| fault.help(format!("available types: {}", type_names().join(", "))));
            return None;
        }
        let found = crate::steps::kind(&name);
        if found.is_none() {
            self.fault(named.span.clone(), "unknown_type", format!("`{name}` is not a step type"));
            self.advise(|fault| fault.suggest(&name, type_names()));
        }
        found
    }

    fn step_keys(&mut self, entries: &'d [(Key, Node)], kind: Option<&StepKind>, what: &str) {
        let own: Vec<String> = kind.map_or_else(Vec::new, |kind| property_names(&(kind.schema)().to_value()));
        for (key, _) in entries {
            let name = key.text.as_str();
            if STEP_KEYS.contains(&name) || own.iter().any(|known| known == name) {
                continue;
            }
            if LATER_KEYS.contains(&name) {
                self.fault(key.span.clone(), "not_available", format!("`{name}` is not available in this version"));
                self.advise(|fault| fault.help("leave the key out"));
            } else if let Some(kind) = kind {
                self.fault(key.span.clone(), "unknown_key", format!("{what} (`{}`) has no key `{name}`", kind.name));
                let known: Vec<&str> = STEP_KEYS.iter().copied().chain(own.iter().map(String::as_str)).collect();
                self.advise(|fault| fault.suggest(name, known));
            }
        }
    }

    /// The type's own keys, checked against its schema.
    fn spec(&mut self, entries: &'d [(Key, Node)], kind: Option<&StepKind>, node: &Node, what: &str) -> Value {
        let Some(kind) = kind else { return Value::Null };
        let schema = (kind.schema)().to_value();
        let own = property_names(&schema);
        let spec: Map<String, Value> = entries
            .iter()
            .filter(|(key, _)| own.contains(&key.text))
            .map(|(key, node)| (key.text.clone(), node.to_json()))
            .collect();
        let spec = Value::Object(spec);
        let make = || jsonschema::validator_for(&schema).expect("the schema of a step type is a schema");
        // Taken out while it is used: the faults that it finds are added to the same reader.
        let validator = self.validators.remove(kind.name).unwrap_or_else(make);
        let before = self.wrong.len();
        for error in validator.iter_errors(&spec) {
            let pointer = error.instance_path().to_string();
            let at = node.locate(&pointer);
            let unquoted = find(node, &pointer).is_some_and(|node| looks_like_template(node.entries()));
            let message = if unquoted {
                format!("`{}` is a template without quotes", pointer.trim_start_matches('/'))
            } else {
                format!("{what}: {}", plain_schema_error(&error, &pointer))
            };
            self.fault(at, if unquoted { "unquoted_template" } else { "wrong_value" }, message);
            if unquoted {
                self.advise(|fault| fault.help("YAML reads {{ … }} as a mapping: write \"{{ … }}\""));
            }
        }
        self.validators.insert(kind.name, validator);
        // What the schema lets through and the type does not (a duration's text, a limit of 0) is found by building it.
        if self.wrong.len() == before
            && let Err(message) = (kind.build)(&spec)
        {
            self.fault(node.span.clone(), "wrong_value", format!("{what}: {message}"));
        }
        spec
    }

    fn needs(&mut self, node: &Node) -> Vec<(String, Span)> {
        match &node.kind {
            Kind::Text(name) => vec![(name.clone(), node.span.clone())],
            Kind::List(items) => {
                let names =
                    items.iter().filter_map(|item| Some((self.text(item, "an entry of `needs`")?, item.span.clone())));
                names.collect()
            }
            _ => {
                self.fault(node.span.clone(), "wrong_type", "`needs` must be a step's id or a list of them");
                Vec::new()
            }
        }
    }

    fn retry(&mut self, node: &'d Node) -> Retry {
        let mut retry = Retry::default();
        let entries = self.map(node, "`retry`");
        self.known_keys(entries, &["attempts", "delay", "backoff", "max_delay"], "`retry`");
        for (key, value) in entries {
            match key.text.as_str() {
                "attempts" => match self.whole(value, "`attempts`", 1) {
                    Some(attempts) if attempts <= 100 => retry.attempts = attempts as u32,
                    Some(_) => {
                        self.fault(value.span.clone(), "impossible_limit", "`attempts` may be 100 at most");
                    }
                    None => {}
                },
                "delay" => retry.delay_ms = self.duration(value, "`delay`").unwrap_or(retry.delay_ms),
                "max_delay" => retry.max_delay_ms = self.duration(value, "`max_delay`").unwrap_or(retry.max_delay_ms),
                "backoff" => match &value.kind {
                    Kind::Number(number) if number.as_f64().is_some_and(|factor| (1.0..=100.0).contains(&factor)) => {
                        retry.backoff = number.as_f64().unwrap_or(retry.backoff);
                    }
                    _ => {
                        self.fault(value.span.clone(), "bad_number", "`backoff` must be a factor between 1 and 100");
                    }
                },
                _ => {}
            }
        }
        retry
    }

    fn on_failure(&mut self, node: &'d Node, targets: &mut Vec<(&'static str, String, Span)>) -> OnFailure {
        match &node.kind {
            Kind::Text(text) if text == "continue" => OnFailure::Continue,
            Kind::Map(entries) => {
                self.known_keys(entries, &["rewind", "rounds"], "`on_failure`");
                let rounds = node.get("rounds").and_then(|node| self.whole(node, "`rounds`", 1)).unwrap_or(1);
                let Some(to) = node.get("rewind") else {
                    self.fault(
                        node.span.clone(),
                        "missing_key",
                        "`on_failure` needs `rewind` (a step's id), or is `continue`",
                    );
                    return OnFailure::Stop;
                };
                if let Some(name) = self.text(to, "`rewind`") {
                    targets.push(("rewind", name.clone(), to.span.clone()));
                    if let Ok(id) = StepId::new(&name) {
                        return OnFailure::Rewind { to: id, rounds: u32::try_from(rounds.min(100)).unwrap_or(100) };
                    }
                }
                OnFailure::Stop
            }
            _ => {
                self.fault(node.span.clone(), "wrong_value", "`on_failure` is `continue` or {rewind: STEP, rounds: N}");
                OnFailure::Stop
            }
        }
    }

    fn env(&mut self, node: &'d Node) -> Vec<(String, String)> {
        let mut env = Vec::new();
        for (key, value) in self.map(node, "`env`") {
            let name = key.text.as_str();
            if !is_variable(name) {
                self.fault(key.span.clone(), "bad_name", format!("`{name}` is not the name of a variable"));
            } else if is_reserved(name) {
                self.fault(key.span.clone(), "reserved_name", format!("`{name}` is set by the engine"));
            }
            let text = match &value.kind {
                Kind::Number(_) | Kind::Bool(_) => Some(value.to_json().to_string()),
                _ => self.text(value, &format!("variable `{name}`")),
            };
            env.extend(text.map(|text| (name.to_owned(), text)));
        }
        env
    }

    fn condition(&mut self, node: &Node) -> Option<String> {
        match &node.kind {
            Kind::Bool(value) => Some(value.to_string()),
            _ => self.text(node, "`if`"),
        }
    }
}

/// Whether a text can name a variable.
pub(crate) fn is_variable(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    first && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Whether the engine sets the variable itself.
pub(crate) fn is_reserved(name: &str) -> bool {
    name.starts_with("DEVO_") || RESERVED_ENV.contains(&name)
}

fn find<'n>(node: &'n Node, pointer: &str) -> Option<&'n Node> {
    pointer.split('/').skip(1).try_fold(node, |node, part| match &node.kind {
        Kind::List(items) => items.get(part.parse::<usize>().ok()?),
        _ => node.get(part),
    })
}

fn plain_schema_error(error: &jsonschema::ValidationError<'_>, pointer: &str) -> String {
    let text: String = error.to_string().chars().take(300).collect();
    let key = pointer.trim_start_matches('/').replace('/', ".");
    if key.is_empty() { text } else { format!("`{key}`: {text}") }
}

fn property_names(schema: &Value) -> Vec<String> {
    schema["properties"].as_object().map_or_else(Vec::new, |properties| properties.keys().cloned().collect())
}

fn type_names() -> Vec<&'static str> {
    KINDS.iter().map(|kind| kind.name).collect()
}
