//! Several runs in one engine, each with real commands in real sandboxes: none sees or disturbs another.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use devo::agent::talk::Store;
use devo::core::event::{RunLimits, RunSpec, Who};
use devo::core::failure::Failure;
use devo::core::id::RunId;
use devo::engine::{Caps, Clock, Engine, Outfitter, Prepared, PreparedStep, Stopped, Until};
use devo::journal::{Journal, MemoryJournal};
use devo::prompts::Prompts;
use devo::sandboxes::{SandboxKind, Settings, Supervisor, Surroundings, open};
use devo::secrets::Masker;
use devo::steps::{Equipment, Grants, kind};
use tokio_util::sync::CancellationToken;

struct NoArtifacts;

#[async_trait]
impl Store for NoArtifacts {
    async fn put(&self, _: Vec<u8>) -> Result<String, Failure> {
        Err(Failure::terminal("none", "nothing is kept here"))
    }
    async fn get(&self, _: &str) -> Result<Vec<u8>, Failure> {
        Err(Failure::terminal("none", "nothing is kept here"))
    }
}

/// Real `shell` steps in a bubblewrap of each run's own.
struct Stage {
    home: std::path::PathBuf,
}

impl Outfitter for Stage {
    fn outfit(&self, spec: &RunSpec) -> Result<Prepared, Failure> {
        let mut settings = Settings::new(Supervisor::at(env!("CARGO_BIN_EXE_devo")), &Surroundings::from_env());
        settings.hide = vec![self.home.clone()];
        let sandbox =
            open(SandboxKind::Bubblewrap, &settings).map_err(|error| Failure::terminal("x", error.to_string()))?;
        let document = devo::yaml::parse("p.yaml", &spec.pipeline_text).expect("it is YAML");
        let pipeline = devo::pipeline::read(&document).expect("it is a pipeline");
        let prepare = |step: &devo::pipeline::StepDef| {
            let built = (kind(&step.kind).expect("a known type").build)(&step.spec).expect("a step");
            let prepared = PreparedStep {
                step: built,
                condition: None,
                env: vec![],
                grants: Ok(Grants::default()),
                references: None,
            };
            (step.id.clone(), prepared)
        };
        let steps: HashMap<_, _> = pipeline.steps.iter().map(prepare).collect();
        let equipment = Equipment {
            masker: Masker::default(),
            sandbox,
            repo: None,
            clients: Default::default(),
            prompts: Prompts::embedded(),
            artifacts: Arc::new(NoArtifacts),
        };
        Ok(Prepared { steps, equipment: Arc::new(equipment) })
    }

    fn caps(&self) -> Caps {
        Caps { runs: 6, per_repo: 2 }
    }
}

/// Each run writes what only it knows, everywhere where it may write, and looks for the others.
const SCRIPT: &str = "steps:
  write: {type: shell, run: 'echo {{ inputs.mark }} | tee mine >/tmp/mark; cp mine ~/mark; mkdir -p /tmp/x; sleep 0.3'}
  look:
    type: shell
    needs: write
    run: |
      cat mine
      find / -xdev -name mark 2>/dev/null
      grep -rl mark- /workspace 2>/dev/null
      ls /proc | grep -c '^[0-9]'
";

fn spec(number: u32) -> RunSpec {
    let document = devo::yaml::parse("p.yaml", &format!("inputs: {{mark: {{}}}}\n{SCRIPT}")).expect("it is YAML");
    let pipeline = devo::pipeline::read(&document).expect("it is a pipeline");
    let mut inputs = serde_json::Map::new();
    inputs.insert("mark".to_owned(), format!("mark-{number}").into());
    RunSpec {
        task_id: RunId(uuid::Uuid::now_v7()),
        pipeline: "p".into(),
        pipeline_text: pipeline.text.clone(),
        pipeline_hash: pipeline.hash.clone(),
        repo: Some(["shop", "bank", "mill"][number as usize % 3].to_owned()),
        base: None,
        task: String::new(),
        inputs,
        key: None,
        notify: vec![],
        who: Who { by: "ana".into(), channel: "cli".into() },
        graph: pipeline.nodes(),
        limits: RunLimits { usd: None, tokens: None, wall_ms: None, parallel: 4 },
        cassette: None,
        sandbox: "bubblewrap".into(),
    }
}

async fn output(journal: &dyn Journal, run: RunId, home: &Path) -> String {
    let document = devo::engine::document(journal, run).await.expect("the run is there");
    assert_eq!(document["status"], "COMPLETED", "{document:#}");
    assert!(home.join("runs").join(run.to_string()).join("logs/look.jsonl").exists());
    document["steps"][1]["output"]["stdout"].as_str().expect("it printed").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_side_by_side_neither_see_nor_disturb_each_other() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let journal: Arc<dyn Journal> = Arc::new(MemoryJournal::default());
    let stage = Arc::new(Stage { home: home.path().to_owned() });
    let engine = Engine::new(journal.clone(), home.path().to_owned(), stage, Clock::start());
    let mut driven = Vec::new();
    for number in 0..12 {
        let spec = spec(number);
        let run = spec.task_id;
        engine.accept(spec).await.expect("it is accepted");
        let engine = engine.clone();
        driven.push((
            number,
            run,
            tokio::spawn(async move { engine.drive(run, Until::Ended, CancellationToken::new()).await }),
        ));
    }
    for (number, run, driven) in driven {
        assert_eq!(driven.await.expect("no panic").expect("no error"), Stopped::Ended);
        let said = output(journal.as_ref(), run, home.path()).await;
        let lines: Vec<&str> = said.lines().collect();
        // Its own file; no mark of its first command (/tmp and HOME are a command's own) nor of any other run.
        assert_eq!(lines[..2], [format!("mark-{number}").as_str(), "/workspace/mine"], "{said}");
        assert_eq!(lines.len(), 3, "{said}");
        assert!(lines[2].parse::<u32>().expect("a number") < 10, "only its own processes: {said}");
    }
}
