//! What channels may look at beside runs: settings, pipelines, the revisions of a plan. Nothing here changes anything.

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Serialize;
use serde_json::Value;

use super::{App, Settings, checks};
use crate::core::event::EventBody;
use crate::core::graph::Graph;
use crate::core::id::RunId;
use crate::core::plan::PlanRecord;
use crate::core::state::RunState;
use crate::error::Error;
use crate::pipeline;
use crate::providers::endpoint;
use crate::yaml;

/// Files under pipelines/ that one look takes in.
const PIPELINES_MAX: usize = 500;

/// A pipeline of the home, or why it cannot be read.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PipelineView {
    /// The name that a task gives.
    pub name: String,
    /// In words.
    pub description: Option<String>,
    /// What a task must or may give.
    pub inputs: Vec<InputView>,
    /// Its steps, in file order.
    pub steps: Vec<StepView>,
    /// Everything that is wrong with the file, with places; nothing for a valid one.
    pub problems: Vec<String>,
}

/// An input of a pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputView {
    /// Its name.
    pub name: String,
    /// `string`, `number`, `integer` or `boolean`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether a task must give it.
    pub required: bool,
    /// What it is otherwise.
    pub default: Option<Value>,
    /// What it may be; anything of its type where there is no list.
    pub choices: Option<Vec<Value>>,
    /// In words.
    pub description: Option<String>,
}

/// A step of a pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StepView {
    /// Its id.
    pub id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The steps that come first.
    pub needs: Vec<String>,
}

impl App {
    /// A secret by the name of its variable, from the environment, the file that `NAME_FILE` names, or systemd's
    /// credentials; it is masked in everything that is stored or shown from now on.
    ///
    /// # Errors
    /// A file that is named and cannot be read.
    pub fn secret(&self, name: &str) -> Result<Option<SecretString>, Error> {
        let found = endpoint::secret(&[name], &|name| std::env::var(name).ok())
            .map_err(|error| Error::refused("secret", error.to_string()))?;
        if let Some(secret) = &found {
            self.hide(secret);
        }
        Ok(found)
    }

    /// Masks a value in everything that is stored or shown from now on.
    pub fn hide(&self, secret: &SecretString) {
        self.masker().add(secret);
    }

    /// What `devo doctor` finds in this home.
    pub async fn checks(&self) -> Vec<super::Check> {
        let places = super::Places::from_env(Some(self.home.clone()));
        checks::checks(&Settings { places }).await
    }

    /// Every pipeline of the home, by name, with everything that is wrong with it.
    pub fn pipelines(&self) -> Vec<PipelineView> {
        let folder = self.home.join("pipelines");
        let mut names: Vec<String> = std::fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .take(PIPELINES_MAX)
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".yaml").map(str::to_owned))
            .filter(|name| is_pipeline_name(name))
            .collect();
        names.sort();
        names.into_iter().map(|name| self.pipeline_view(name)).collect()
    }

    fn pipeline_view(&self, name: String) -> PipelineView {
        let path = self.home.join("pipelines").join(format!("{name}.yaml"));
        let empty = PipelineView { name, description: None, inputs: vec![], steps: vec![], problems: vec![] };
        let bytes = match super::tasks::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => return PipelineView { problems: vec![error.message], ..empty },
        };
        let shown = format!("pipelines/{}.yaml", empty.name);
        match yaml::parse_bytes(&shown, &bytes).and_then(|document| pipeline::read(&document)) {
            Err(wrong) => {
                let line = |fault: &yaml::Diagnostic| {
                    format!("{}:{}:{}: {}", fault.file, fault.line, fault.column, fault.message)
                };
                PipelineView { problems: wrong.iter().map(line).collect(), ..empty }
            }
            Ok(read) => {
                let graph = read.graph();
                let inputs = read.inputs.into_iter().map(|(name, input)| InputView {
                    name,
                    kind: input.kind.name().to_owned(),
                    required: input.required,
                    default: input.default,
                    choices: input.choices,
                    description: input.description,
                });
                PipelineView { description: read.description, inputs: inputs.collect(), steps: steps(&graph), ..empty }
            }
        }
    }

    /// The graph and the state of a run.
    pub async fn load(&self, run: RunId) -> Result<(Graph, RunState), Error> {
        Ok(crate::engine::load(self.journal.as_ref(), run).await?)
    }

    /// Every revision of a run's plan, oldest first.
    pub async fn plans(&self, run: RunId) -> Result<Vec<PlanRecord>, Error> {
        let mut plans: Vec<PlanRecord> = Vec::new();
        for event in self.journal.events(run, 0).await? {
            if let EventBody::StepSucceeded { output, .. } = event.body
                && output.get("hash").is_some()
                && let Ok(plan) = serde_json::from_value::<PlanRecord>(output)
            {
                plans.push(plan);
            }
        }
        Ok(plans)
    }
}

/// Whether a text can name a file under pipelines/ and nothing else.
pub fn is_pipeline_name(text: &str) -> bool {
    let strict = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    strict && !text.is_empty() && !text.starts_with('.') && !text.ends_with(".yaml") && !text.ends_with(".yml")
}

/// The steps of a graph.
pub fn steps(graph: &Graph) -> Vec<StepView> {
    let step = |node: &crate::core::graph::Node| StepView {
        id: node.id.to_string(),
        kind: node.kind.clone(),
        needs: node.needs.iter().map(ToString::to_string).collect(),
    };
    graph.nodes().map(step).collect()
}
