//! The words that name a task on a command line, shared by `run`, `submit` and `prompt show`.

use std::path::PathBuf;

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
        Ok(TaskRequest { source: self.source()?, id: Some(id), cassette, key: None, who: who() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
