//! The YAML reader: a tree in which every value and key knows where it stands, and diagnostics that point at it.
//!
//! It owns every call of the YAML library. It knows YAML 1.2's core schema and limits, not what a file means. What is read
//! strictly: `true` and `false` are the only booleans, `017` and `1_000` are text, equal keys are a mistake, one document.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet, renderer::DecorStyle};
use serde::Serialize;
use serde_json::{Map, Number, Value};
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span as ParserSpan};

/// The largest file, in bytes.
pub const BYTES_MAX: usize = 1024 * 1024;
/// The deepest nesting.
pub const DEPTH_MAX: usize = 64;
/// The most values, expanded aliases included.
pub const NODES_MAX: usize = 400_000;
/// The most diagnostics that are listed.
const DIAGNOSTICS_MAX: usize = 100;

/// A place in a file, in bytes.
pub type Span = Range<usize>;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What.
    pub kind: Kind,
    /// Where.
    pub span: Span,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A decimal number.
    Number(Number),
    /// Anything else that is not a collection.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in file order; keys are text.
    Map(Vec<(Key, Node)>),
}

/// A mapping's key.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// The key.
    pub text: String,
    /// Where.
    pub span: Span,
}

impl Node {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, node)| node)
    }

    /// A key and its value.
    pub fn entry(&self, key: &str) -> Option<(&Key, &Node)> {
        self.entries().iter().find(|(known, _)| known.text == key).map(|(key, node)| (key, node))
    }

    /// A mapping's entries; nothing for other values.
    pub fn entries(&self) -> &[(Key, Node)] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The text, if it is text.
    pub fn as_str(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What it is, for messages.
    pub fn describe(&self) -> &'static str {
        match self.kind {
            Kind::Null => "nothing",
            Kind::Bool(_) => "true or false",
            Kind::Number(_) => "a number",
            Kind::Text(_) => "text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }

    /// As JSON, in file order.
    pub fn to_json(&self) -> Value {
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(value) => Value::Bool(*value),
            Kind::Number(number) => Value::Number(number.clone()),
            Kind::Text(text) => Value::String(text.clone()),
            Kind::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Kind::Map(entries) => Value::Object(
                entries.iter().map(|(key, node)| (key.text.clone(), node.to_json())).collect::<Map<_, _>>(),
            ),
        }
    }

    /// The place that a JSON pointer names, or of the nearest thing above it that exists.
    pub fn locate(&self, pointer: &str) -> Span {
        let mut current = self;
        let mut span = self.span.clone();
        for part in pointer.split('/').skip(1) {
            let part = part.replace("~1", "/").replace("~0", "~");
            let next = match &current.kind {
                Kind::Map(_) => current.get(&part),
                Kind::List(items) => part.parse::<usize>().ok().and_then(|index| items.get(index)),
                _ => None,
            };
            let Some(next) = next else { break };
            current = next;
            span = next.span.clone();
        }
        span
    }
}

/// Something wrong with a file, at a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// For programs: `unknown_key`, `cycle`, …
    pub code: &'static str,
    /// The file's name as it was given.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What was expected, the nearest name, what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Where, in bytes.
    #[serde(skip)]
    pub span: Span,
}

/// A parsed file.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its name.
    pub file: String,
    /// Its text.
    pub text: String,
    /// Its content.
    pub root: Node,
}

impl Document {
    /// A diagnostic about a place in this file.
    pub fn diagnostic(&self, span: Span, code: &'static str, message: impl Into<String>) -> Diagnostic {
        diagnostic(&self.file, &self.text, span, code, message.into())
    }
}

impl Diagnostic {
    /// Adds what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Suggests the nearest of the known names, or lists them.
    #[must_use]
    pub fn suggest<'a>(self, wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        match nearest(wrong, known.iter().copied()) {
            Some(name) => self.help(format!("did you mean `{name}`?")),
            None if known.is_empty() => self,
            None => self.help(format!("known: {}", known.join(", "))),
        }
    }
}

/// The known name that a wrong one was probably meant to be.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored =
        known.into_iter().map(|name| (strsim::damerau_levenshtein(&wrong.to_lowercase(), &name.to_lowercase()), name));
    let (distance, name) = scored.min_by_key(|(distance, _)| *distance)?;
    (distance <= (wrong.chars().count() / 3).max(1)).then_some(name)
}

fn diagnostic(file: &str, text: &str, span: Span, code: &'static str, message: String) -> Diagnostic {
    let start = floor(text, span.start);
    let end = floor(text, span.end).max(start);
    let before = &text[..start];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    // Only the first line of what is meant is underlined: a whole mapping would hide the message.
    let first = text[start..end].split('\n').next().map_or(0, |line| line.trim_end().len());
    Diagnostic { code, file: file.to_owned(), line, column, message, help: None, span: start..start + first }
}

fn floor(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// Diagnostics as a compiler shows them: the offending line, a mark, what to do.
pub fn render(diagnostics: &[Diagnostic], text: &str, color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() }.decor_style(DecorStyle::Ascii);
    let mut out = String::new();
    for diagnostic in diagnostics {
        let mut group: Group<'_> = Level::ERROR.primary_title(&diagnostic.message).id(diagnostic.code).element(
            Snippet::source(text)
                .path(&diagnostic.file)
                .annotation(AnnotationKind::Primary.span(diagnostic.span.clone())),
        );
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(help));
        }
        out.push_str(&renderer.render(&[group]));
        out.push_str("\n\n");
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

/// Reads a file's bytes: refuses what is too large or not UTF-8, then parses.
pub fn parse_bytes(file: &str, bytes: &[u8]) -> Result<Document, Vec<Diagnostic>> {
    let refuse = |code, message: String| vec![diagnostic(file, "", 0..0, code, message)];
    if bytes.len() > BYTES_MAX {
        let message = format!("the file has {} bytes; {BYTES_MAX} are allowed", bytes.len());
        return Err(refuse("too_large", message));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(file, text),
        Err(error) => Err(refuse("not_text", format!("the file is not UTF-8 text: {error}"))),
    }
}

/// Parses one document. Mistakes that leave a tree (equal keys) are listed together with those that do not.
pub fn parse(file: &str, text: &str) -> Result<Document, Vec<Diagnostic>> {
    read(file, text, false)
}

/// Parses the bytes of a document that was not written for us: merge keys are left in it as keys named `<<`.
pub fn parse_foreign(file: &str, bytes: &[u8]) -> Result<Document, Vec<Diagnostic>> {
    match std::str::from_utf8(bytes) {
        Ok(text) => read(file, text, true),
        Err(_) => parse_bytes(file, bytes),
    }
}

fn read(file: &str, text: &str, foreign: bool) -> Result<Document, Vec<Diagnostic>> {
    if text.len() > BYTES_MAX {
        return parse_bytes(file, text.as_bytes());
    }
    let (wrong, anchors) = (Vec::new(), Vec::new());
    let mut reader = Reader { file, text, foreign, wrong, nodes: 0, anchors, starts: line_starts(text) };
    let root = reader.document();
    let mut wrong = reader.wrong;
    wrong.truncate(DIAGNOSTICS_MAX);
    match root {
        Some(root) if wrong.is_empty() => Ok(Document { file: file.to_owned(), text: text.to_owned(), root }),
        _ => Err(wrong),
    }
}

/// Writes a value as YAML.
pub fn to_string(value: &impl Serialize) -> Result<String, String> {
    serde_saphyr::to_string(value).map_err(|error| error.to_string())
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

enum Frame {
    List {
        start: usize,
        anchor: usize,
        items: Vec<Node>,
    },
    Map {
        start: usize,
        anchor: usize,
        entries: Vec<(Key, Node)>,
        key: Option<Key>,
        seen: std::collections::HashSet<String>,
    },
}

struct Reader<'t> {
    file: &'t str,
    text: &'t str,
    /// Whether merge keys may stay.
    foreign: bool,
    wrong: Vec<Diagnostic>,
    nodes: usize,
    anchors: Vec<(usize, Node, usize)>,
    starts: Vec<usize>,
}

impl Reader<'_> {
    fn fault(&mut self, span: Span, code: &'static str, message: impl Into<String>) -> &mut Diagnostic {
        self.wrong.push(diagnostic(self.file, self.text, span, code, message.into()));
        self.wrong.last_mut().expect("just pushed")
    }

    /// The parser counts in characters where it has no bytes.
    fn span(&self, span: &ParserSpan) -> Span {
        if let Some(range) = span.byte_range() {
            return range;
        }
        let at = |line: usize, column: usize| {
            let start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or(self.text.len());
            let offset: usize = self.text[start..].chars().take(column).map(char::len_utf8).sum();
            start + offset
        };
        at(span.start.line(), span.start.col())..at(span.end.line(), span.end.col())
    }

    fn document(&mut self) -> Option<Node> {
        let text = self.text;
        let mut frames: Vec<Frame> = Vec::new();
        let mut root = None;
        let mut documents = 0;
        for next in Parser::new_from_str(text) {
            let (event, span) = match next {
                Ok(next) => next,
                Err(error) => {
                    let mark = *error.marker();
                    let at = self.span(&ParserSpan::empty(mark));
                    let message = error.to_string();
                    self.fault(at.start..at.start + 1, "not_yaml", message);
                    return None;
                }
            };
            let span = self.span(&span);
            let done = match event {
                Event::DocumentStart(..) => {
                    documents += 1;
                    if documents > 1 {
                        self.fault(span, "two_documents", "a file holds one document; this starts a second one");
                        return None;
                    }
                    continue;
                }
                Event::SequenceStart(_, anchor, _) => {
                    frames.push(Frame::List { start: span.start, anchor, items: Vec::new() });
                    self.depth(&frames, span)?;
                    continue;
                }
                Event::MappingStart(_, anchor, _) => {
                    let frame = Frame::Map {
                        start: span.start,
                        anchor,
                        entries: Vec::new(),
                        key: None,
                        seen: std::collections::HashSet::new(),
                    };
                    frames.push(frame);
                    self.depth(&frames, span)?;
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    let (node, anchor) = match frames.pop()? {
                        Frame::List { start, anchor, items } => {
                            (Node { kind: Kind::List(items), span: start..span.end }, anchor)
                        }
                        Frame::Map { start, anchor, entries, .. } => {
                            (Node { kind: Kind::Map(entries), span: start..span.end }, anchor)
                        }
                    };
                    self.count(1, &node.span)?;
                    self.remember(anchor, &node);
                    node
                }
                Event::Scalar(text, style, anchor, tag) => {
                    if let Some(tag) = tag {
                        self.fault(span.clone(), "tag", format!("the tag `{tag}` is not used here")).help =
                            Some("leave the tag out".to_owned());
                    }
                    let node = Node { kind: scalar(&text, style), span };
                    self.count(1, &node.span)?;
                    self.remember(anchor, &node);
                    node
                }
                Event::Alias(id) => {
                    let Some(at) = self.anchors.iter().rposition(|(known, _, _)| *known == id) else {
                        self.fault(span, "alias", "this alias stands inside what it names");
                        return None;
                    };
                    // Counted before it is copied: a bomb stops at the limit, not in memory.
                    self.count(self.anchors[at].2, &span)?;
                    Node { kind: self.anchors[at].1.kind.clone(), span }
                }
                _ => continue,
            };
            match frames.last_mut() {
                None => root = Some(done),
                Some(Frame::List { items, .. }) => items.push(done),
                Some(Frame::Map { entries, key, seen, .. }) => match key.take() {
                    Some(key) => entries.push((key, done)),
                    None => {
                        let (name, fault) = key_text(&done);
                        let duplicate = !seen.insert(name.clone());
                        *key = Some(Key { text: name.clone(), span: done.span.clone() });
                        let fault = fault.filter(|(code, _, _)| !(self.foreign && *code == "merge_key"));
                        if let Some((code, message, help)) = fault {
                            self.fault(done.span, code, message).help = Some(help.to_owned());
                        } else if duplicate {
                            self.fault(
                                done.span,
                                "duplicate_key",
                                format!("the key `{name}` stands here a second time"),
                            )
                            .help = Some("keep one of them".to_owned());
                        }
                    }
                },
            }
        }
        Some(root.unwrap_or(Node { kind: Kind::Null, span: 0..0 }))
    }

    fn depth(&mut self, frames: &[Frame], span: Span) -> Option<()> {
        if frames.len() > DEPTH_MAX {
            self.fault(span, "too_deep", format!("more than {DEPTH_MAX} levels of nesting"));
            return None;
        }
        Some(())
    }

    fn count(&mut self, nodes: usize, span: &Span) -> Option<()> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > NODES_MAX {
            self.fault(span.clone(), "too_many", format!("more than {NODES_MAX} values, aliases expanded"));
            return None;
        }
        Some(())
    }

    fn remember(&mut self, anchor: usize, node: &Node) {
        if anchor > 0 {
            self.anchors.push((anchor, node.clone(), size(node)));
        }
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.kind {
        Kind::List(items) => items.iter().map(size).sum::<usize>(),
        Kind::Map(entries) => entries.iter().map(|(_, node)| 1 + size(node)).sum(),
        _ => 0,
    }
}

type Fault = (&'static str, String, &'static str);

fn key_text(node: &Node) -> (String, Option<Fault>) {
    match &node.kind {
        Kind::Text(text) if text == "<<" => {
            let fault = ("merge_key", "merge keys (`<<`) are not used here".to_owned(), "write the keys out");
            (text.clone(), Some(fault))
        }
        Kind::Text(text) => (text.clone(), None),
        Kind::Number(number) => (number.to_string(), None),
        Kind::Bool(value) => (value.to_string(), None),
        Kind::Null => ("null".to_owned(), None),
        Kind::Map(_) | Kind::List(_) => {
            let message = "a collection cannot be a key".to_owned();
            (String::new(), Some(("bad_key", message, "quote a template: \"{{ … }}\"")))
        }
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Kind {
    if style != ScalarStyle::Plain {
        return Kind::Text(text.to_owned());
    }
    match text {
        "" | "~" | "null" => return Kind::Null,
        "true" => return Kind::Bool(true),
        "false" => return Kind::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let numeric = digits.bytes().next().is_some_and(|byte| byte.is_ascii_digit())
        && digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'-' | b'+'));
    let octal = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
    if numeric && !octal {
        if let Ok(number) = text.trim_start_matches('+').parse::<i64>() {
            return Kind::Number(number.into());
        }
        if let Some(number) = text.parse::<f64>().ok().and_then(Number::from_f64) {
            return Kind::Number(number);
        }
    }
    Kind::Text(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Vec<(&'static str, usize, usize)> {
        parse("f.yaml", text).unwrap_err().iter().map(|d| (d.code, d.line, d.column)).collect()
    }

    #[test]
    fn values_are_read_strictly_and_know_their_place() {
        let text = "a: [no, on, 017, 1_000, 7, 1.5, true, ~]\nñ: |\n  two\n  lines\n";
        let document = parse("f.yaml", text).unwrap();
        assert_eq!(
            document.root.to_json(),
            serde_json::json!({"a": ["no", "on", "017", "1_000", 7, 1.5, true, null], "ñ": "two\nlines\n"})
        );
        let span = document.root.locate("/a/4");
        assert_eq!(&text[span], "7");
        let (key, _) = document.root.entry("ñ").unwrap();
        assert_eq!(&text[key.span.clone()], "ñ");
    }

    #[test]
    fn equal_keys_are_all_reported_where_they_stand() {
        assert_eq!(codes("a: 1\nb: 2\na: 3\nb: 4\n"), [("duplicate_key", 3, 1), ("duplicate_key", 4, 1)]);
    }

    #[test]
    fn what_is_not_yaml_has_a_position() {
        let found = codes("a: [1, 2\nb: 3\n");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, "not_yaml");
        assert!(found[0].1 >= 1);
        assert_eq!(codes("a: 1\n---\nb: 2\n")[0].0, "two_documents");
        assert_eq!(codes("<<: 1\n")[0].0, "merge_key");
        let foreign = parse_foreign("f.yaml", b"a: &a {b: 1}\nc:\n  <<: *a\n").unwrap().root.to_json();
        assert_eq!(foreign, serde_json::json!({"a": {"b": 1}, "c": {"<<": {"b": 1}}}));
        assert_eq!(parse_foreign("f.yaml", b"<<: 1\n<<: 2\n").unwrap_err()[0].code, "duplicate_key");
    }

    #[test]
    fn bombs_and_depth_are_refused_in_bounded_memory() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 1..9 {
            bomb.push_str(&format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", ")));
        }
        assert_eq!(codes(&bomb)[0].0, "too_many");
        let deep = "[".repeat(100) + &"]".repeat(100);
        assert_eq!(codes(&deep)[0].0, "too_deep");
        let deeper = "[".repeat(200_000);
        assert_eq!(codes(&deeper).len(), 1);
        let wide = "- a\n".repeat(250_000);
        assert!(parse("f.yaml", &wide).is_ok());
        assert_eq!(parse_bytes("f.yaml", &vec![b'a'; BYTES_MAX + 1]).unwrap_err()[0].code, "too_large");
        assert_eq!(parse_bytes("f.yaml", b"a: \xff").unwrap_err()[0].code, "not_text");
    }

    #[test]
    fn names_are_suggested_only_when_near() {
        assert_eq!(nearest("exeucte-loop", ["plan", "execute-loop"]), Some("execute-loop"));
        assert_eq!(nearest("frobnicate", ["plan", "execute-loop"]), None);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse("f.yaml", &text).map_err(|wrong| render(&wrong, &text, false));
        }

        #[test]
        fn no_yaml_like_text_panics(text in "[ a-c0-9:\\-\\[\\]{}&*|>'\"#\n?,!]{0,80}") {
            let _ = parse("f.yaml", &text).map_err(|wrong| render(&wrong, &text, false));
        }
    }
}
