//! Prompts: the markdown files of `ai/`, from the home or embedded, rendered with undefined names as errors.
//!
//! It knows files and templates; which files make which prompt is the business of the step that asks.

use std::path::{Path, PathBuf};

use rust_embed::RustEmbed;
use serde_json::Value;

use crate::core::event::{PromptFile, PromptRecord};
use crate::core::failure::Failure;
use crate::core::plan::sha256;
use crate::templates::render_files;

/// The prompts of this repository: what `devo init` writes.
#[derive(RustEmbed)]
#[folder = "ai/"]
pub struct Embedded;

/// Where prompts come from.
#[derive(Debug, Clone)]
pub struct Prompts {
    home: Option<PathBuf>,
}

/// A rendered prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// The templates, in order.
    pub files: Vec<PromptFile>,
}

impl Prompts {
    /// Files of `<home>/ai`, and the embedded ones where the home has none.
    pub fn of_home(home: &Path) -> Self {
        Self { home: Some(home.join("ai")) }
    }

    /// The embedded ones alone.
    pub fn embedded() -> Self {
        Self { home: None }
    }

    fn read(&self, name: &str) -> Result<String, Failure> {
        if let Some(home) = &self.home {
            match std::fs::read_to_string(home.join(name)) {
                Ok(text) => return Ok(text),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(Failure::terminal("prompt", format!("cannot read the prompt ai/{name}: {error}")));
                }
            }
        }
        let file = Embedded::get(name).ok_or_else(|| {
            Failure::terminal("prompt", format!("there is no prompt ai/{name}"))
                .hint("`devo init` writes the prompts that ship")
        })?;
        String::from_utf8(file.data.into_owned())
            .map_err(|error| Failure::terminal("prompt", format!("the prompt ai/{name} is not text: {error}")))
    }

    /// Renders the named files, in order, into one text.
    pub fn render(&self, names: &[&str], values: &Value) -> Result<Rendered, Failure> {
        let mut text = String::new();
        let mut files = Vec::new();
        for name in names {
            let source = self.read(name)?;
            let path = format!("ai/{name}");
            files.push(PromptFile { blob: blob_id(source.as_bytes()), path: path.clone() });
            let rendered = render_files(&[(path.clone(), source)], &path, values).map_err(|error| {
                let place = error.line.map_or_else(|| path.clone(), |line| format!("{path}:{line}"));
                Failure::terminal("prompt", format!("{place}: {error}"))
                    .hint("the prompt uses a name that this step does not give, or is not a template; `devo prompt show` renders it")
            })?;
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&rendered);
        }
        Ok(Rendered { text, files })
    }
}

impl Rendered {
    /// What the journal keeps of several rendered parts of one call.
    pub fn record(parts: &[&Self], model: &str) -> PromptRecord {
        let whole: String = parts.iter().map(|part| part.text.as_str()).collect();
        PromptRecord {
            files: parts.iter().flat_map(|part| part.files.clone()).collect(),
            rendered_sha256: sha256(whole.as_bytes()).trim_start_matches("sha256:").to_owned(),
            model: model.to_owned(),
        }
    }
}

/// The id that git gives a file with this content.
fn blob_id(bytes: &[u8]) -> String {
    use sha1::Digest as _;
    let mut hasher = sha1::Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn blob_ids_are_gits() {
        assert_eq!(blob_id(b"hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
    }

    #[test]
    fn an_undefined_name_says_file_and_line() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join("ai/planner")).unwrap();
        std::fs::write(home.path().join("ai/planner/role.md"), "one\n{{ nobody }}\n").unwrap();
        let error = Prompts::of_home(home.path()).render(&["planner/role.md"], &json!({})).unwrap_err();
        assert!(error.message.contains("ai/planner/role.md:2"), "{error:?}");
    }

    #[test]
    fn the_shipped_prompts_render_and_record_their_files() {
        let values = json!({"checks": ["test"]});
        let rendered = Prompts::embedded()
            .render(&["system/base.md", "planner/role.md", "planner/constraints.md"], &values)
            .unwrap();
        assert!(rendered.text.contains("`test`"));
        assert_eq!(rendered.files.len(), 3);
        assert_eq!(rendered.files[0].path, "ai/system/base.md");
        let record = Rendered::record(&[&rendered], "m");
        assert_eq!(record.rendered_sha256.len(), 64);
    }
}
