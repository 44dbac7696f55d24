//! The words that name a task on a command line, shared by `run`, `submit` and `prompt show`.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::drive::who;
use crate::app::{TaskRequest, TaskSource};
use crate::core::event::CassetteUse;
use crate::core::id::RunId;
use crate::error::Error;
use crate::frontends::inbox::read_task;

/// The pipeline that a task without one means.
const DEFAULT_PIPELINE: &str = "dev-task";

/// A task file, or the same in words.
#[derive(Debug, Clone, clap::Args)]
pub struct TaskWords {
    /// A task file (`-` reads standard input)
    #[arg(value_name = "TASK.yaml", conflicts_with_all = ["pipeline", "repo", "task", "inputs"])]
    pub file: Option<PathBuf>,
    /// A pipeline of the home's pipelines/ [default: dev-task]
    #[arg(long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// A repository of devo.yaml
    #[arg(long, value_name = "REPO")]
    pub repo: Option<String>,
    /// What is to be done
    #[arg(long, value_name = "TEXT")]
    pub task: Option<String>,
    /// One more input of the pipeline; may be repeated
    #[arg(long = "input", value_name = "K=V", value_parser = key_value)]
    pub inputs: Vec<(String, String)>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

impl TaskWords {
    /// Whether anything was said at all.
    pub fn is_empty(&self) -> bool {
        self.file.is_none()
            && self.pipeline.is_none()
            && self.repo.is_none()
            && self.task.is_none()
            && self.inputs.is_empty()
    }

    /// Where the task comes from.
    pub fn source(&self) -> Result<TaskSource, Error> {
        if let Some(file) = &self.file {
            return Ok(TaskSource::File { name: file.display().to_string(), text: read_task(file)? });
        }
        if self.is_empty() {
            return Err(Error::usage("there is no task")
                .hint("give a task file, or --pipeline, --repo and --task; `devo run --help` has examples"));
        }
        let mut seen = std::collections::BTreeSet::new();
        if let Some((twice, _)) = self.inputs.iter().find(|(key, _)| !seen.insert(key)) {
            return Err(Error::usage(format!("the input `{twice}` is given twice")));
        }
        Ok(TaskSource::Words {
            pipeline: self.pipeline.clone().unwrap_or_else(|| DEFAULT_PIPELINE.to_owned()),
            repo: self.repo.clone(),
            task: self.task.clone(),
            inputs: self.inputs.clone(),
        })
    }

    /// A request for a run with a fresh id.
    pub fn request(&self, cassette: Option<CassetteUse>) -> Result<TaskRequest, Error> {
        let id = RunId(uuid::Uuid::now_v7());
        Ok(TaskRequest { source: self.source()?, id: Some(id), cassette, who: who() })
    }
}

/// A source as the text of a task file. Words become JSON, which is YAML that no text can break out of.
pub fn file_text(source: &TaskSource) -> String {
    match source {
        TaskSource::File { text, .. } => text.clone(),
        TaskSource::Words { pipeline, repo, task, inputs } => {
            let inputs: Map<String, Value> =
                inputs.iter().map(|(key, value)| (key.clone(), Value::String(value.clone()))).collect();
            let mut all = json!({"pipeline": pipeline});
            for (name, value) in [("repo", repo), ("task", task)] {
                if let Some(value) = value {
                    all[name] = Value::String(value.clone());
                }
            }
            if !inputs.is_empty() {
                all["inputs"] = Value::Object(inputs);
            }
            format!("{all:#}\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_a_file_that_says_the_same() {
        let source = TaskSource::Words {
            pipeline: "dev-task".into(),
            repo: Some("shop".into()),
            task: Some("a: \"b\"\n- {c}".into()),
            inputs: vec![("n".into(), "3".into())],
        };
        let value: Value = serde_json::from_str(&file_text(&source)).unwrap();
        assert_eq!(value["task"], "a: \"b\"\n- {c}");
        assert_eq!(value["inputs"]["n"], "3");
        assert_eq!(crate::app::task_outline(&file_text(&source)).repo.as_deref(), Some("shop"));
    }

    #[test]
    fn inputs_are_named_once() {
        assert_eq!(key_value("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(key_value("=x").is_err() && key_value("x").is_err());
        let words = TaskWords {
            file: None,
            pipeline: None,
            repo: None,
            task: None,
            inputs: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
        };
        assert_eq!(words.source().unwrap_err().exit.code(), 2);
    }
}
