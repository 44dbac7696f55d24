//! Templates and expressions: minijinja with undefined names as errors, bounded work and no way to the outside.
//!
//! Values are rendered once; what a value contains is never a template. For the shell every value is quoted, and a place in
//! the script where quoting could not work is refused before anything runs.

use std::collections::BTreeSet;
use std::ops::Range;

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};

/// Instructions that one rendering may take: far above any honest template, far below a second.
const FUEL: u64 = 50_000;

/// A template that cannot be rendered, or that is wrong as it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TemplateError {
    /// What is wrong.
    pub message: String,
    /// Where in the template, in bytes, if known.
    pub range: Option<Range<usize>>,
    /// Line in the template, from 1, if known.
    pub line: Option<usize>,
}

impl From<Error> for TemplateError {
    fn from(error: Error) -> Self {
        let mut message = match error.detail() {
            Some(detail) => format!("{}: {detail}", error.kind()),
            None => error.kind().to_string(),
        };
        if error.kind() == ErrorKind::OutOfFuel {
            message = "the template does too much work".to_owned();
        }
        Self { message, range: error.range(), line: error.line() }
    }
}

fn environment<'source>() -> Environment<'source> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(64);
    env.set_formatter(|out, state, value| match value.kind() {
        ValueKind::Bool | ValueKind::None => out.write_str(&word(value)?).map_err(Error::from),
        _ => minijinja::escape_formatter(out, state, value),
    });
    env
}

/// Renders a template.
pub fn render(template: &str, values: &serde_json::Value) -> Result<String, TemplateError> {
    Ok(environment().render_str(template, minijinja::Value::from(minijinja::value::Serde(values)))?)
}

/// Renders named templates that may include each other, one after another.
pub fn render_files(
    files: &[(String, String)],
    wanted: &str,
    values: &serde_json::Value,
) -> Result<String, TemplateError> {
    let mut env = environment();
    for (name, text) in files {
        env.add_template(name, text)?;
    }
    Ok(env.get_template(wanted)?.render(minijinja::Value::from(minijinja::value::Serde(values)))?)
}

/// Renders a shell script: every value becomes one quoted word, a list one word per item.
pub fn render_shell(template: &str, values: &serde_json::Value) -> Result<String, TemplateError> {
    let mut env = environment();
    env.set_formatter(|out, _, value| {
        let text = match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                let words = value.try_iter()?.map(|item| quote(&word(&item)?)).collect::<Result<Vec<_>, _>>()?;
                words.join(" ")
            }
            _ => quote(&word(value)?)?,
        };
        out.write_str(&text).map_err(Error::from)
    });
    Ok(env.render_str(template, minijinja::Value::from(minijinja::value::Serde(values)))?)
}

fn word(value: &minijinja::Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Map | ValueKind::Seq => {
            Ok(serde_json::to_string(value)
                .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?)
        }
        ValueKind::Undefined => Err(Error::new(ErrorKind::UndefinedError, "the value does not exist")),
        // As YAML, JSON and shells spell them, not as Jinja does; what was left empty is empty.
        ValueKind::Bool => Ok(value.is_true().to_string()),
        ValueKind::None => Ok(String::new()),
        _ => Ok(value.to_string()),
    }
}

fn quote(text: &str) -> Result<String, Error> {
    if text.contains('\0') {
        return Err(Error::new(ErrorKind::InvalidOperation, "a value with a NUL byte cannot be passed to a command"));
    }
    Ok(format!("'{}'", text.replace('\'', r"'\''")))
}

/// Evaluates an expression to true or false.
pub fn evaluate(expression: &str, values: &serde_json::Value) -> Result<bool, TemplateError> {
    let env = environment();
    let value = env.compile_expression(expression)?.eval(minijinja::Value::from(minijinja::value::Serde(values)))?;
    Ok(value.is_true())
}

/// What a template is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Text.
    Text,
    /// A shell script.
    Shell,
    /// A bare expression.
    Expression,
}

/// The names that a template uses, like `steps.plan.output.title`; or why it cannot work.
pub fn references(template: &str, mode: Mode) -> Result<BTreeSet<String>, TemplateError> {
    let env = environment();
    if mode == Mode::Expression {
        return Ok(env.compile_expression(template)?.undeclared_variables(true).into_iter().collect());
    }
    let names = env.template_from_str(template)?.undeclared_variables(true).into_iter().collect();
    if mode == Mode::Shell {
        check_shell(template)?;
    }
    Ok(names)
}

/// Where in a shell text the scanner stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quote {
    None,
    Single,
    Double,
    Comment,
}

/// Refuses `{{ … }}` where a quoted word would not stay one: inside quotes, comments, backticks, arithmetic and here-documents,
/// or right after `\` or `$`.
fn check_shell(template: &str) -> Result<(), TemplateError> {
    let bytes = template.as_bytes();
    let fault = |at: usize, end: usize, message: &str| TemplateError {
        message: message.to_owned(),
        range: Some(at..end),
        line: Some(template[..at].matches('\n').count() + 1),
    };
    let mut quote = Quote::None;
    let (mut backtick, mut heredoc, mut arithmetic) = (false, false, 0usize);
    let mut at = 0;
    while at < bytes.len() {
        let rest = &template[at..];
        if let Some((open, close)) =
            [("{{", "}}"), ("{%", "%}"), ("{#", "#}")].iter().find(|(open, _)| rest.starts_with(open))
        {
            let end = rest.find(close).map_or(bytes.len(), |found| at + found + 2);
            if *open != "{#" {
                let before = at.checked_sub(1).map(|before| bytes[before]);
                let remedy = match quote {
                    Quote::Single | Quote::Double => Some("remove the quotes around it: the engine quotes every value"),
                    Quote::Comment => Some("it stands in a comment"),
                    Quote::None if backtick => Some("it stands in backticks; use $(…)"),
                    Quote::None if heredoc => Some("it follows a here-document; pass the value through `env:`"),
                    Quote::None if arithmetic > 0 => Some("it stands in arithmetic; pass the value through `env:`"),
                    Quote::None if *open == "{{" && matches!(before, Some(b'\\' | b'$')) => {
                        Some("a \\ or $ right before it would undo the quoting")
                    }
                    Quote::None => None,
                };
                if let Some(remedy) = remedy {
                    return Err(fault(at, end, &format!("a value cannot be put here: {remedy}")));
                }
                if template[at..end].contains("| raw") || template[at..end].contains("|raw") {
                    return Err(fault(
                        at,
                        end,
                        "`raw` is refused: every value is quoted; pass code in the pipeline itself",
                    ));
                }
            }
            at = end;
            continue;
        }
        let byte = bytes[at];
        let word_start = at == 0 || matches!(bytes[at - 1], b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' | b'(' | b')');
        match (quote, byte) {
            (Quote::None | Quote::Double, b'\\') if !rest[1..].starts_with("{{") => at += 1,
            (Quote::None, b'\'') => quote = Quote::Single,
            (Quote::None, b'"') => quote = Quote::Double,
            (Quote::None, b'#') if word_start => quote = Quote::Comment,
            (Quote::None, b'`') => backtick = !backtick,
            (Quote::None, b'<') if rest.starts_with("<<") => heredoc = true,
            (Quote::None, _) if rest.starts_with("$((") => {
                arithmetic += 1;
                at += 2;
            }
            (Quote::None, _) if arithmetic > 0 && rest.starts_with("))") => {
                arithmetic -= 1;
                at += 1;
            }
            (Quote::Single, b'\'') | (Quote::Double, b'"') | (Quote::Comment, b'\n') => quote = Quote::None,
            _ => {}
        }
        at += 1;
        while at < bytes.len() && !template.is_char_boundary(at) {
            at += 1;
        }
    }
    Ok(())
}

/// Puts values where a text has `{name}`; a value is never looked at again.
pub fn fill(text: &str, values: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let Some(close) = rest[open..].find('}').map(|close| open + close) else { break };
        out.push_str(&rest[..open]);
        let name = &rest[open + 1..close];
        match values.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => out.push_str(value),
            None => out.push_str(&rest[open..=close]),
        }
        rest = &rest[close + 1..];
    }
    out.push_str(rest);
    out
}

/// The templates of pages: HTML, in which every value is escaped, and whose files may build on each other.
pub struct Pages {
    env: Environment<'static>,
}

impl Pages {
    /// Reads the files, by name; all must end in `.html`.
    ///
    /// # Errors
    /// The first file that is no template.
    pub fn new(files: impl IntoIterator<Item = (String, String)>) -> Result<Self, TemplateError> {
        let mut env = Environment::new();
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        // Whatever a file is called: nothing is ever put into a page as it is.
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::Html);
        env.set_recursion_limit(64);
        // What a person approves is read in the order in which it stands: what would reorder it is shown as a mark.
        env.set_formatter(|out, state, value| match value.as_str() {
            Some(text) if !value.is_safe() && text.contains(reorders) => {
                let marked: minijinja::Value = text.replace(reorders, "\u{fffd}").into();
                minijinja::escape_formatter(out, state, &marked)
            }
            _ => minijinja::escape_formatter(out, state, value),
        });
        env.add_filter("fill", |text: String, values: minijinja::value::Kwargs| -> Result<String, Error> {
            let mut given = Vec::new();
            for name in values.args() {
                given.push((name, values.get::<minijinja::Value>(name)?.to_string()));
            }
            let given: Vec<(&str, &str)> = given.iter().map(|(name, value)| (*name, value.as_str())).collect();
            Ok(fill(&text, &given))
        });
        for (name, text) in files {
            env.add_template_owned(name, text)?;
        }
        Ok(Self { env })
    }

    /// Lets templates make one text of two: of a value and of the filter's argument.
    pub fn add_filter(&mut self, name: &'static str, filter: fn(&str, &str) -> String) {
        self.env.add_filter(name, move |text: &str, other: &str| filter(text, other));
    }

    /// Renders a page.
    ///
    /// # Errors
    /// A name that the values do not have, or a file that is not there.
    pub fn render(&self, name: &str, values: &impl serde::Serialize) -> Result<String, TemplateError> {
        Ok(self.env.get_template(name)?.render(minijinja::Value::from(minijinja::value::Serde(values)))?)
    }
}

fn reorders(char: char) -> bool {
    crate::secrets::steers(char) && !matches!(char, '\n' | '\r' | '\t')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_undefined_name_is_an_error_that_names_it() {
        let error = render("a {{ inputs.nope }}", &json!({"inputs": {}})).unwrap_err();
        assert!(error.message.contains("undefined"), "{error}");
        assert_eq!(render("{{ inputs.a }}", &json!({"inputs": {"a": "{{ b }}"}})).unwrap(), "{{ b }}", "rendered once");
        assert!(
            evaluate(
                "inputs.a == 1 and steps.x.output.exit != 0",
                &json!({"inputs": {"a": 1}, "steps": {"x": {"output": {"exit": 2}}}})
            )
            .unwrap()
        );
    }

    #[test]
    fn pages_escape_everything() {
        let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let pages = Pages::new([
            file("base.html", "<p title=\"{{ v }}\">{% block b %}{% endblock %}</p>"),
            file("a.html", "{% extends 'base.html' %}{% block b %}{{ v }}{{ 'n {x}'|fill(x=v) }}{% endblock %}"),
        ]);
        let page = pages.unwrap().render("a.html", &json!({"v": "<b>'\"&{{ v }}"})).unwrap();
        let escaped = "&lt;b&gt;&#x27;&quot;&amp;{{ v }}";
        assert_eq!(page, format!("<p title=\"{escaped}\">{escaped}n {escaped}</p>"));
        assert!(Pages::new([file("x.html", "{{ a")]).is_err());
        let pages = Pages::new([file("a.html", "{{ v }}")]).unwrap();
        let page = pages.render("a.html", &json!({"v": "a\u{202e}b\u{1b}[0m\n<\u{2066}ñ"})).unwrap();
        assert_eq!(page, "a\u{fffd}b\u{fffd}[0m\n&lt;\u{fffd}ñ");
    }

    #[test]
    fn endless_work_stops() {
        let error =
            render("{% for a in range(10000) %}{% for b in range(10000) %}x{% endfor %}{% endfor %}", &json!({}));
        assert!(error.unwrap_err().message.contains("too much work"));
    }

    #[test]
    fn names_are_found_in_full() {
        let found = references("{{ steps.plan.output.title }} {% if inputs.a %}x{% endif %}", Mode::Text).unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["inputs.a", "steps.plan.output.title"]);
        assert!(references("inputs.a > 1", Mode::Expression).unwrap().contains("inputs.a"));
        assert!(references("{{ a", Mode::Text).is_err());
    }

    #[test]
    fn places_where_quoting_cannot_work_are_refused() {
        for bad in [
            "echo '{{ x }}'",
            "echo \"{{ x }}\"",
            "echo \"$(cat {{ x }})\"",
            "# {{ x }}",
            "echo `cat {{ x }}`",
            "cat <<EOF\n{{ x }}\nEOF",
            "echo $(({{ x }} + 1))",
            "echo \\{{ x }}",
            "echo ${{ x }}",
            "echo {{ x | raw }}",
            "{% if a %}\"{% endif %}{{ x }}",
        ] {
            assert!(references(bad, Mode::Shell).is_err(), "{bad}");
        }
        for good in [
            "echo {{ x }}",
            "echo 'a' {{ x }} \"b\"",
            "a={{ x }}; echo \"$a\"",
            "echo $(cat {{ x }})",
            "echo a#{{ x }}",
            "# it's fine\necho {{ x }}",
            "echo \\\" {{ x }}",
            "echo $((1 + 1)) {{ x }}",
            "{# \" #}echo {{ x }}",
        ] {
            assert!(references(good, Mode::Shell).is_ok(), "{good}");
        }
    }

    #[test]
    fn lists_become_words() {
        let text = render_shell("ls {{ inputs.files }}", &json!({"inputs": {"files": ["a b", "c'd"]}})).unwrap();
        assert_eq!(text, r"ls 'a b' 'c'\''d'");
        assert!(render_shell("echo {{ x }}", &json!({"x": "a\0b"})).is_err());
    }

    #[test]
    fn truth_is_spelled_as_shells_and_yaml_do() {
        let values = json!({"yes": true, "no": false, "nothing": null, "whole": 7, "part": 1.5});
        let template = "{{ yes }} {{ no }} [{{ nothing }}] {{ whole }} {{ part }}";
        assert_eq!(render(template, &values).unwrap(), "true false [] 7 1.5");
        assert_eq!(
            render_shell("{{ yes }} {{ no }} {{ nothing }} {{ whole }}", &values).unwrap(),
            "'true' 'false' '' '7'"
        );
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn a_real_shell_prints_exactly_the_value(value in "[^\0]{0,40}") {
            let script = render_shell("printf %s {{ v }}", &json!({"v": value})).unwrap();
            let output = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
            proptest::prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), value);
        }
    }
}
