//! Foreground driving with steps of our own making: exit codes, the event stream, answers from elsewhere.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;

use super::*;
use crate::app::{Places, Settings};
use crate::core::event::{Question, RunLimits, RunSpec};
use crate::core::failure::Failure;
use crate::core::graph::{Authority, Node};
use crate::core::id::StepId;
use crate::core::plan::{Estimate, Plan, PlanRecord, sha256};
use crate::core::request::Request;
use crate::engine::{Answer, Engine, Outfitter, Prepared, PreparedStep};
use crate::frontends::cli::screen::Out;
use crate::journal::{MemoryJournal, Verdict};
use crate::steps::{Context, Grants, Outcome, Step, Turn};

/// Does what its type's name says.
struct Actor(String);

#[async_trait]
impl Step for Actor {
    async fn run(&self, cx: &Context, turn: Turn) -> Outcome {
        match self.0.as_str() {
            "plan" => {
                let plan: Plan = serde_json::from_value(json!({
                    "title": "A plan", "summary": turn.feedback.unwrap_or_default(), "steps": [], "criteria": [],
                }))
                .unwrap();
                let revision = if turn.previous.is_null() { 1 } else { 2 };
                let hash = &cx.spec.pipeline_hash;
                let record = PlanRecord::new(plan, Estimate::default(), revision, "abc".into(), hash);
                Outcome::Done(serde_json::to_value(record).unwrap())
            }
            "approve" if turn.answer.is_none() => {
                Outcome::Ask(Question { kind: QuestionKind::Approval, text: "Approve?".into() }, Value::Null)
            }
            "ask" if turn.answer.is_none() => {
                Outcome::Ask(Question { kind: QuestionKind::Answer, text: "Which?".into() }, Value::Null)
            }
            "fail" => Outcome::Fail(Failure::terminal("broken", "it broke").hint("mend it")),
            "wait" => {
                cx.cancel.cancelled().await;
                Outcome::Fail(Failure::terminal("stopped", "stopped"))
            }
            _ => Outcome::Done(json!({"said": turn.answer})),
        }
    }
}

struct Actors;

impl Outfitter for Actors {
    fn outfit(&self, spec: &RunSpec) -> Result<Prepared, Failure> {
        let prepare = |node: &Node| {
            let step = Box::new(Actor(node.kind.clone()));
            (
                node.id.clone(),
                PreparedStep { step, condition: None, env: vec![], grants: Ok(Grants::default()), references: None },
            )
        };
        let steps: HashMap<_, _> = spec.graph.iter().map(prepare).collect();
        Ok(Prepared { steps, equipment: Arc::new(crate::steps::bare::equipment()) })
    }
}

struct Stage {
    dir: tempfile::TempDir,
    journal: Arc<dyn Journal>,
    engine: Arc<Engine>,
    cx: Cx,
}

impl Stage {
    fn new(json: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let journal: Arc<dyn Journal> = Arc::new(MemoryJournal::default());
        let engine = Engine::new(journal.clone(), dir.path().to_owned(), Arc::new(Actors), Clock::start());
        let cx = Cx {
            settings: Settings { places: Places::from_env(Some(dir.path().to_owned())) },
            json,
            devo: "devo".to_owned(),
            quiet: false,
            verbose: 0,
            input: false,
            out: Out::memory(),
            err: Out::memory(),
        };
        Self { dir, journal, engine, cx }
    }

    /// Accepts a chain of steps of these types, each named by its type.
    async fn accept(&self, kinds: &[&str]) -> (RunId, tokio::sync::broadcast::Receiver<Notice>) {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let id = uuid::Uuid::from_u128(
            0x0193_b2c0_7e1f_7abc_8def_0000_0000_0000 + u128::from(NEXT.fetch_add(1, Ordering::Relaxed)),
        );
        let mut graph: Vec<Node> = Vec::new();
        for kind in kinds {
            let mut node = Node::new(StepId::new(kind).unwrap(), kind);
            node.needs = graph.last().map(|before| before.id.clone()).into_iter().collect();
            node.authority = match *kind {
                "plan" => Authority::Plans,
                "approve" => Authority::Approves,
                _ => Authority::Free,
            };
            node.revise = (*kind == "approve").then(|| StepId::new("plan").unwrap());
            graph.push(node);
        }
        let spec = RunSpec {
            task_id: RunId(id),
            pipeline: "test".into(),
            pipeline_text: String::new(),
            pipeline_hash: sha256(b""),
            repo: None,
            base: None,
            task: "do it".into(),
            inputs: serde_json::Map::new(),
            key: None,
            notify: vec![],
            who: who(),
            graph,
            limits: RunLimits { usd: None, tokens: None, wall_ms: None, parallel: 4 },
            cassette: None,
            sandbox: "bubblewrap".into(),
        };
        let feed = self.engine.subscribe();
        self.engine.accept(spec).await.unwrap();
        (RunId(id), feed)
    }

    async fn drive(&self, kinds: &[&str], watch: bool, yes: bool) -> (RunId, Exit) {
        let (run, feed) = self.accept(kinds).await;
        let exit = self.go_on(run, feed, watch, yes).await;
        (run, exit)
    }

    async fn go_on(&self, run: RunId, feed: tokio::sync::broadcast::Receiver<Notice>, watch: bool, yes: bool) -> Exit {
        drive(&self.cx, self.job(run, feed, watch, yes), CancellationToken::new()).await.unwrap()
    }

    fn job(&self, run: RunId, feed: tokio::sync::broadcast::Receiver<Notice>, watch: bool, yes: bool) -> Job<'static> {
        let run_dir = self.engine.run_dir(run);
        let hands = Hands::Here(self.engine.clone());
        Job { run, hands, journal: self.journal.clone(), run_dir, feed, watch, yes, desktop: Desktop::silent() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_end_has_its_exit_code_and_tells_what_next() {
    let stage = Stage::new(false);
    let (_, exit) = stage.drive(&["a", "b"], true, false).await;
    assert_eq!(exit, Exit::Completed);
    let (run, exit) = stage.drive(&["a", "fail", "b"], true, false).await;
    assert_eq!(exit, Exit::Failed);
    let out = stage.cx.out.text();
    assert!(out.contains("it broke") && out.contains("hint: mend it"), "{out}");
    assert!(out.contains(&format!("devo retry {}", run.short())), "{out}");
    let err = stage.cx.err.text();
    assert!(err.contains("✗ fail  failed") && err.contains("× b     cancelled"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_accepted_then_every_event_then_the_result() {
    let stage = Stage::new(true);
    let (run, _) = stage.drive(&["a"], true, false).await;
    let text = stage.cx.out.text();
    assert!(text.starts_with(&format!(r#"{{"event":"accepted","task_id":"{run}","seq":1,"at":""#)), "{text}");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seqs: Vec<u64> = lines.iter().filter_map(|line| line["seq"].as_u64()).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    assert_eq!(seqs.len(), stage.journal.events(run, 0).await.unwrap().len());
    let last = lines.last().unwrap();
    assert_eq!((last["event"].as_str(), last["run"]["status"].as_str()), (Some("result"), Some("COMPLETED")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_is_not_here_is_exit_3_and_the_shown_plan_is_remembered() {
    let stage = Stage::new(false);
    let (run, exit) = stage.drive(&["plan", "approve", "b"], false, false).await;
    assert_eq!(exit, Exit::Waiting);
    let out = stage.cx.out.text();
    assert!(out.contains("Plan: A plan") && out.contains(&format!("devo approve {}", run.short())), "{out}");
    let shown = shown::recall(&stage.engine.run_dir(run)).unwrap();
    assert_eq!(shown.revision, 1);
    let approve = |plan_hash: String| Request { signal: Signal::Approve { plan_hash, note: None }, who: who() };
    // A revision makes what was shown stale.
    let revise = Request { signal: Signal::Revise { text: "more".into() }, who: who() };
    assert_eq!(stage.engine.submit(run, revise).await.unwrap(), Answer::Idle);
    let feed = stage.engine.subscribe();
    assert_eq!(stage.go_on(run, feed, false, false).await, Exit::Waiting);
    let refused = stage.engine.submit(run, approve(shown.hash)).await.unwrap();
    assert!(matches!(refused, Answer::Refused(why) if why.code == "superseded"));
    let shown = shown::recall(&stage.engine.run_dir(run)).unwrap();
    assert_eq!(shown.revision, 2);
    stage.engine.submit(run, approve(shown.hash)).await.unwrap();
    let feed = stage.engine.subscribe();
    assert_eq!(stage.go_on(run, feed, false, false).await, Exit::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn yes_approves_one_plan_and_answers_nothing() {
    let stage = Stage::new(false);
    let (_, exit) = stage.drive(&["plan", "approve", "b"], true, true).await;
    assert_eq!(exit, Exit::Completed);
    let (_, exit) = stage.drive(&["plan", "approve", "ask"], false, true).await;
    assert_eq!(exit, Exit::Waiting);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_watching_a_word_from_another_process_goes_on_at_once() {
    let stage = Stage::new(false);
    let (run, feed) = stage.accept(&["plan", "approve", "ask", "b"]).await;
    let mut watched = stage.engine.subscribe();
    let others = async {
        let mut asked = 0;
        while asked < 2 {
            let Notice::Event { event, .. } = watched.recv().await.unwrap() else { continue };
            let crate::core::event::EventBody::StepAsked { question, .. } = &event.body else { continue };
            asked += 1;
            let signal = match question.kind {
                QuestionKind::Approval => {
                    let (_, state) = stage.engine.load(run).await.unwrap();
                    Signal::Approve { plan_hash: state.plan().unwrap().hash.clone(), note: None }
                }
                _ => Signal::Answer { text: "this one".into() },
            };
            let id = stage.journal.post(run, Request { signal, who: who() }, event.at).await.unwrap();
            let verdict = loop {
                match stage.journal.verdict(id).await.unwrap() {
                    Some(verdict) => break verdict,
                    None => tokio::task::yield_now().await,
                }
            };
            assert_eq!(verdict, Verdict::Recorded);
        }
    };
    let (exit, ()) = tokio::join!(stage.go_on(run, feed, true, false), others);
    assert_eq!(exit, Exit::Completed);
    let err = stage.cx.err.text();
    assert_eq!(err.matches("waiting for an approval; from another terminal").count(), 1, "{err}");
    assert_eq!(err.matches("waiting for an answer; from another terminal").count(), 1, "{err}");
    assert_eq!(shown::recall(&stage.dir.path().join("runs").join(run.to_string())).unwrap().revision, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_leaves_a_run_that_can_be_resumed() {
    let stage = Stage::new(false);
    let (run, feed) = stage.accept(&["wait"]).await;
    let mut watched = stage.engine.subscribe();
    let stop = CancellationToken::new();
    let stopper = async {
        loop {
            if let Notice::Event { event, .. } = watched.recv().await.unwrap()
                && event.body.step().is_some()
            {
                stop.cancel();
                return;
            }
        }
    };
    let job = stage.job(run, feed, true, false);
    let (exit, ()) = tokio::join!(drive(&stage.cx, job, stop.clone()), stopper);
    assert_eq!(exit.unwrap(), Exit::Interrupted);
    assert!(stage.cx.err.text().contains(&format!("devo resume {}", run.short())));
    assert!(stage.engine.load(run).await.unwrap().1.ending().is_none());
}

#[test]
fn every_status_has_an_exit_code() {
    let exit = |status: &str| exit_of(&json!({"status": status}));
    assert_eq!(exit("COMPLETED"), Exit::Completed);
    assert_eq!(exit("FAILED"), Exit::Failed);
    assert_eq!(exit("ABORTED"), Exit::Aborted);
    for open in ["QUEUED", "PLANNING", "PLANNED", "EXECUTING"] {
        assert_eq!(exit(open), Exit::Waiting);
    }
}
