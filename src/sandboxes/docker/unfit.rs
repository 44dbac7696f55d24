//! What is wrong with a file of a repository that says what a container is, and what readers of such files share: the
//! list of what they found, what becomes of keys, texts out of values, and paths that stay in the repository.

use std::fmt;

use serde_json::{Map, Value};

/// The most problems that are listed.
const PROBLEMS_MAX: usize = 50;
/// The longest piece of a file that a message shows, in characters.
const SHOWN_CHARS: usize = 80;

/// A file that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// Its path in the repository.
    pub file: String,
    /// What is wrong, in file order as far as it goes.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where: a JSON pointer into the document; a merge key's values stand where they are merged.
    pub pointer: String,
    /// What.
    pub message: String,
    /// What to do instead.
    pub hint: String,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            let place = problem.pointer.trim_start_matches('/').replace('/', ".").replace("~1", "/").replace("~0", "~");
            let space = if place.is_empty() { "" } else { " " };
            write!(f, "{}:{space}{} {} ({})", self.file, shown(&place), problem.message, problem.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Unfit {}

/// What a reader found: problems, and what a person should know.
#[derive(Debug, Default)]
pub(super) struct Findings {
    problems: Vec<Problem>,
    said: Vec<String>,
}

impl Findings {
    /// Something that cannot be followed.
    pub(super) fn refuse(&mut self, at: &At, message: impl Into<String>, hint: impl Into<String>) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { pointer: at.0.clone(), message: message.into(), hint: hint.into() });
        }
    }

    /// Something that is left out on purpose; once.
    pub(super) fn say(&mut self, text: impl Into<String>) {
        let text = text.into();
        if self.said.len() < PROBLEMS_MAX && !self.said.contains(&text) {
            self.said.push(text);
        }
    }

    /// What was said, if nothing was refused.
    pub(super) fn close(self, file: &str) -> Result<Vec<String>, Unfit> {
        if self.problems.is_empty() { Ok(self.said) } else { Err(self.unfit(file)) }
    }

    /// The problems of a file that cannot be followed at all.
    pub(super) fn unfit(self, file: &str) -> Unfit {
        Unfit { file: file.to_owned(), problems: self.problems }
    }

    /// A text, a number or a boolean as text.
    pub(super) fn text(&mut self, at: &At, value: &Value) -> Option<String> {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(value) => value.to_string(),
            _ => {
                self.refuse(at, "must be text", "write one value here");
                return None;
            }
        };
        if text.contains('\0') {
            self.refuse(at, "holds a NUL character", "leave it out");
            return None;
        }
        Some(text)
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, at: &At, value: &Value) -> Option<Vec<String>> {
        let Value::Array(items) = value else {
            self.refuse(at, "must be a list of texts", "write `[first, second]`");
            return None;
        };
        items.iter().enumerate().map(|(index, item)| self.text(&at.index(index), item)).collect()
    }

    /// A command: a list, or a text that is split into words. Nothing reads it as a shell would.
    pub(super) fn command(&mut self, at: &At, value: &Value) -> Option<Vec<String>> {
        if value.is_array() {
            return self.texts(at, value);
        }
        let text = self.text(at, value)?;
        let words = shlex::split(&text);
        if words.is_none() {
            self.refuse(at, "has quotes that do not match", "close them, or write a list");
        }
        words
    }

    /// A path in the repository.
    pub(super) fn path(&mut self, at: &At, folder: &str, path: &str) -> Option<String> {
        match inside(folder, path) {
            Ok(path) => Some(path),
            Err(why) => {
                let hint = "name a path in the repository, relative to this file";
                self.refuse(at, format!("`{}` {why}", shown(path)), hint);
                None
            }
        }
    }
}

/// A place in a document.
#[derive(Debug, Clone, Default)]
pub(super) struct At(String);

impl At {
    /// The place of a key's value.
    pub(super) fn key(&self, key: &str) -> Self {
        Self(format!("{}/{}", self.0, key.replace('~', "~0").replace('/', "~1")))
    }

    /// The place of an item.
    pub(super) fn index(&self, index: usize) -> Self {
        Self(format!("{}/{index}", self.0))
    }
}

/// What becomes of the keys of a mapping. `x-…` is an extension everywhere, and null is as good as absent.
pub(super) struct Keys {
    /// Read by us.
    pub(super) followed: &'static [&'static str],
    /// Without meaning for a run of commands.
    pub(super) silent: &'static [&'static str],
    /// Left out and said, with why.
    pub(super) said: &'static [(&'static str, &'static str)],
    /// Refused, with why and what to do instead.
    pub(super) refused: &'static [(&'static str, &'static str, &'static str)],
}

/// Says and refuses what is to be said and refused of a mapping's keys.
pub(super) fn check(found: &mut Findings, at: &At, entries: &Map<String, Value>, keys: &Keys) {
    for (key, value) in entries {
        if value.is_null() || key.starts_with("x-") {
            continue;
        }
        let at = at.key(key);
        if keys.followed.contains(&key.as_str()) || keys.silent.contains(&key.as_str()) {
            continue;
        }
        if let Some((_, why)) = keys.said.iter().find(|(known, _)| known == key) {
            found.say(format!("`{key}` is left out: {why}"));
        } else if let Some((_, why, hint)) = keys.refused.iter().find(|(known, _, _)| known == key) {
            // An empty list or `false` asks for nothing.
            let empty = value.as_array().is_some_and(Vec::is_empty)
                || value.as_object().is_some_and(Map::is_empty)
                || value == &Value::Bool(false);
            if !empty {
                found.refuse(&at, *why, *hint);
            }
        } else {
            let known = keys.followed.iter().chain(keys.silent).copied().chain(keys.said.iter().map(|(key, _)| *key));
            let hint = nearest(key, known.chain(keys.refused.iter().map(|(key, _, _)| *key)));
            let hint = hint.unwrap_or_else(|| "leave it out, or name it `x-…` if it is for others".to_owned());
            found.refuse(&at, format!("is not known: `{}`", shown(key)), hint);
        }
    }
}

/// The path in the repository that a file in `folder` of the repository means; `""` is the repository's root. By name
/// alone: what is read by it comes from a commit, in which no link is followed.
///
/// # Errors
/// A fragment that says how it leaves.
pub(super) fn inside(folder: &str, path: &str) -> Result<String, &'static str> {
    if path.starts_with(['/', '~', '\\']) || path.get(1..3).is_some_and(|rest| rest == ":\\" || rest == ":/") {
        return Err("is a path of the host");
    }
    if path.contains("://") || path.starts_with("git@") || path.starts_with("github.com/") {
        return Err("is not a path");
    }
    if path.contains(['\0', '\n', '\\', '$']) {
        return Err("has characters that a path here must not have");
    }
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.pop().is_none() => return Err("leaves the repository"),
            ".." => {}
            part if part.eq_ignore_ascii_case(".git") => return Err("is git's own folder"),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// Whether a text can name an image: nothing that an API's path or a shell could read otherwise.
pub(super) fn is_image_name(text: &str) -> bool {
    (1..=300).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/' | b':' | b'@'))
        && !text.split('/').any(|part| part.is_empty() || part == ".." || part.ends_with(':'))
}

/// Whether a text can name a user, and a group behind `:`.
pub(super) fn is_user(text: &str) -> bool {
    let word = |word: &str| {
        (1..=64).contains(&word.len())
            && !word.starts_with('-')
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    };
    text.split_once(':').map_or_else(|| word(text), |(user, group)| word(user) && word(group))
}

/// The folder that a file is in.
pub(super) fn folder_of(file: &str) -> &str {
    file.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// A piece of a file for a message: one line, not too long.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String = crate::secrets::printable(text).chars().take(SHOWN_CHARS).collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

/// The known name that a wrong one was probably meant to be, as a hint.
pub(super) fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let wrong: String = wrong.chars().take(SHOWN_CHARS).collect();
    let scored = known.into_iter().map(|name| (strsim::damerau_levenshtein(&wrong, name), name));
    let (distance, name) = scored.min_by_key(|(distance, _)| *distance)?;
    (distance <= (wrong.chars().count() / 3).max(1)).then(|| format!("did you mean `{name}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_in_the_repository() {
        for (folder, path, wanted) in [
            ("", ".", Some("")),
            ("", "./a/b", Some("a/b")),
            (".devcontainer", "..", Some("")),
            (".devcontainer", "../deploy/Dockerfile", Some("deploy/Dockerfile")),
            ("a/b", "../../c", Some("c")),
            ("a/b", "../../../c", None),
            ("", "..", None),
            ("", "a/../../b", None),
            ("", "/etc", None),
            ("", "~/x", None),
            ("", "~root/x", None),
            ("", "C:\\x", None),
            ("", "a\\..\\..\\x", None),
            ("", "https://example.org/x.git", None),
            ("", "git@example.org:x", None),
            ("", "github.com/a/b", None),
            ("", "a/.GIT/config", None),
            ("", "${HOME}/x", None),
        ] {
            assert_eq!(inside(folder, path).ok().as_deref(), wanted, "{folder} {path}");
        }
    }
}
