//! Several runs in one engine, and what their sandboxes are told. Steps and sandboxes are of our own making.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::{Semaphore, watch};

use super::*;
use crate::core::event::{Ending, Question, RunLimits, Who};
use crate::core::graph::{Node, Retry};
use crate::core::plan::sha256;
use crate::core::request::Signal;
use crate::journal::MemoryJournal;
use crate::sandboxes::{Command, Finished, OutputSink, SandboxError};
use crate::steps::{Context, Grants, Outcome, Turn, bare};

/// What happens on the stage.
struct World {
    journal: Arc<dyn Journal>,
    caps: Caps,
    /// One permit lets one `hold` step go.
    gate: Semaphore,
    /// `hold` steps that run now, by repository, and the most that ever did.
    inside: Mutex<BTreeMap<String, usize>>,
    most: AtomicUsize,
    /// Counts what happened, so that a test can wait for it.
    moved: watch::Sender<usize>,
    /// What sandboxes were told: `release SCOPE`, `close N`.
    told: Mutex<Vec<String>>,
    rooms: AtomicU32,
    /// A sandbox that never answers.
    hangs: bool,
    /// The equipment is not there any more.
    missing: AtomicBool,
    /// Whoever looks for the equipment panics.
    panics: AtomicBool,
}

impl World {
    fn new(caps: Caps, hangs: bool) -> Arc<Self> {
        Arc::new(Self {
            journal: Arc::new(MemoryJournal::default()),
            caps,
            gate: Semaphore::new(0),
            inside: Mutex::default(),
            most: AtomicUsize::new(0),
            moved: watch::Sender::new(0),
            told: Mutex::default(),
            rooms: AtomicU32::new(0),
            hangs,
            missing: AtomicBool::new(false),
            panics: AtomicBool::new(false),
        })
    }

    fn tell(&self, what: String) {
        self.told.lock().unwrap().push(what);
        self.moved.send_modify(|count| *count += 1);
    }

    fn holding(&self) -> usize {
        self.inside.lock().unwrap().values().sum()
    }

    async fn until(&self, what: impl Fn(&Self) -> bool) {
        let mut moved = self.moved.subscribe();
        while !what(self) {
            moved.changed().await.unwrap();
        }
    }
}

struct Actor(String, Arc<World>);

#[async_trait]
impl Step for Actor {
    async fn run(&self, cx: &Context, turn: Turn) -> Outcome {
        let world = &self.1;
        match self.0.as_str() {
            "hold" => {
                let repo = cx.spec.repo.clone().unwrap_or_default();
                let count = |change: isize| {
                    let mut inside = world.inside.lock().unwrap();
                    let of = inside.entry(repo.clone()).or_default();
                    *of = of.checked_add_signed(change).unwrap();
                    let all: usize = inside.values().sum();
                    assert!(inside.values().all(|count| *count <= world.caps.per_repo), "{inside:?}");
                    world.most.fetch_max(all, Ordering::SeqCst);
                };
                count(1);
                world.moved.send_modify(|count| *count += 1);
                let go = tokio::select! {
                    permit = world.gate.acquire() => { permit.unwrap().forget(); true }
                    () = cx.cancel.cancelled() => false,
                };
                count(-1);
                world.moved.send_modify(|count| *count += 1);
                if go { Outcome::Done(json!({})) } else { Outcome::Fail(Failure::terminal("stopped", "stopped")) }
            }
            "ask" if turn.answer.is_none() => {
                Outcome::Ask(Question { kind: QuestionKind::Answer, text: "Which?".into() }, Value::Null)
            }
            "carries-much" => Outcome::Again(json!("x".repeat(2 << 20))),
            "parks-much" => Outcome::Park { reason: "x".repeat(1 << 20), for_ms: 1, carry: json!("x".repeat(2 << 20)) },
            "fails-much" => Outcome::Fail(Failure::terminal("much", "x".repeat(2 << 20)).feedback("y".repeat(2 << 20))),
            "outputs-much" => Outcome::Done(json!("x".repeat(2 << 20))),
            "twice" if turn.attempt == 1 => Outcome::Fail(Failure::retryable("broken", "it broke")),
            "turns" if turn.turn < 3 => Outcome::Again(json!(turn.turn)),
            _ => Outcome::Done(json!({})),
        }
    }
}

struct Room(u32, Arc<World>);

#[async_trait]
impl Sandbox for Room {
    fn name(&self) -> &'static str {
        "room"
    }
    fn isolates(&self) -> bool {
        true
    }
    fn caveats(&self) -> Vec<String> {
        Vec::new()
    }
    async fn probe(&self) -> Result<(), SandboxError> {
        Ok(())
    }
    async fn exec(&self, _: &Command, _: &dyn OutputSink, _: &CancellationToken) -> Result<Finished, SandboxError> {
        Err(SandboxError::HostNotAllowed)
    }
    async fn release(&self, scope: &str) {
        self.1.tell(format!("release {scope}"));
        if self.1.hangs {
            std::future::pending::<()>().await;
        }
    }
    async fn close(&self) {
        self.1.tell(format!("close {}", self.0));
        if self.1.hangs {
            std::future::pending::<()>().await;
        }
    }
}

struct Stage(Arc<World>);

impl Stage {
    fn room(&self) -> Arc<dyn Sandbox> {
        Arc::new(Room(self.0.rooms.fetch_add(1, Ordering::SeqCst), self.0.clone()))
    }
}

impl Outfitter for Stage {
    fn outfit(&self, spec: &RunSpec) -> Result<Prepared, Failure> {
        assert!(!self.0.panics.load(Ordering::SeqCst), "a bug");
        if self.0.missing.load(Ordering::SeqCst) {
            return Err(Failure::terminal("unknown_repo", "there is no such repository any more"));
        }
        let prepare = |node: &Node| {
            let step = Box::new(Actor(node.kind.clone(), self.0.clone()));
            let grants = Ok(Grants::default());
            (node.id.clone(), PreparedStep { step, condition: None, env: vec![], grants, references: None })
        };
        let steps = spec.graph.iter().map(prepare).collect();
        Ok(Prepared { steps, equipment: Arc::new(Equipment { sandbox: self.room(), ..bare::equipment() }) })
    }
    fn sandbox(&self, _: &RunSpec) -> Option<Result<Arc<dyn Sandbox>, Failure>> {
        Some(Ok(self.room()))
    }
    fn caps(&self) -> Caps {
        self.0.caps
    }
}

struct Theatre {
    _dir: tempfile::TempDir,
    engine: Arc<Engine>,
    world: Arc<World>,
}

impl Theatre {
    fn new(world: Arc<World>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let stage = Arc::new(Stage(world.clone()));
        let engine = Engine::new(world.journal.clone(), dir.path().to_owned(), stage, Clock::start());
        Self { _dir: dir, engine, world }
    }

    /// Accepts a run of these step types, one after the other.
    async fn accept(&self, repo: Option<&str>, kinds: &[&str]) -> RunId {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = u128::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let id = RunId(uuid::Uuid::from_u128(0x0193_b2c0_7e1f_7abc_8def_0000_0000_0000 + number));
        let mut graph: Vec<Node> = Vec::new();
        for kind in kinds {
            let mut node = Node::new(StepId::new(kind).unwrap(), kind);
            node.needs = graph.last().map(|before| before.id.clone()).into_iter().collect();
            node.always = *kind == "always";
            node.retry = Retry { attempts: 2, delay_ms: 1, ..Retry::default() };
            graph.push(node);
        }
        let spec = RunSpec {
            task_id: id,
            pipeline: "test".into(),
            pipeline_text: String::new(),
            pipeline_hash: sha256(b""),
            repo: repo.map(str::to_owned),
            base: None,
            task: "do it".into(),
            inputs: serde_json::Map::new(),
            key: None,
            notify: vec![],
            who: who(),
            graph,
            limits: RunLimits { usd: None, tokens: None, wall_ms: None, parallel: 4 },
            cassette: None,
            sandbox: "room".into(),
        };
        self.engine.accept(spec).await.unwrap();
        id
    }

    fn drive(&self, run: RunId, stop: &CancellationToken) -> tokio::task::JoinHandle<Result<Stopped, EngineError>> {
        let (engine, stop) = (self.engine.clone(), stop.clone());
        tokio::spawn(async move { engine.drive(run, Until::Ended, stop).await })
    }

    async fn events(&self, run: RunId) -> Vec<EventBody> {
        self.world.journal.events(run, 0).await.unwrap().into_iter().map(|event| event.body).collect()
    }
}

fn who() -> Who {
    Who { by: "ana".into(), channel: "cli".into() }
}

fn caps(runs: usize, per_repo: usize) -> Caps {
    Caps { runs, per_repo }
}

#[tokio::test]
async fn a_driver_that_panics_leaves_its_run_to_the_next() {
    let theatre = Theatre::new(World::new(caps(1, 1), false));
    let stop = CancellationToken::new();
    let run = theatre.accept(None, &["ask"]).await;
    theatre.world.panics.store(true, Ordering::SeqCst);
    assert!(theatre.drive(run, &stop).await.unwrap_err().is_panic());
    theatre.world.panics.store(false, Ordering::SeqCst);
    let driven = theatre.engine.drive(run, Until::PersonNeeded, stop.clone()).await;
    assert_eq!(driven.unwrap(), Stopped::PersonNeeded);
    // Nor does a driver that was dropped half-way.
    let unfinished = theatre.engine.drive(run, Until::Ended, stop.clone());
    assert!(tokio::time::timeout(Duration::from_millis(50), unfinished).await.is_err(), "it waits for the answer");
    let driven = theatre.engine.drive(run, Until::PersonNeeded, stop).await;
    assert_eq!(driven.unwrap(), Stopped::PersonNeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_waits_for_another_of_its_repository_and_says_so() {
    let theatre = Theatre::new(World::new(caps(4, 1), false));
    let stop = CancellationToken::new();
    let mut feed = theatre.engine.subscribe();
    let first = theatre.accept(Some("shop"), &["hold"]).await;
    let second = theatre.accept(Some("shop"), &["hold"]).await;
    let other = theatre.accept(Some("other"), &["hold"]).await;
    let one = theatre.drive(first, &stop);
    theatre.world.until(|world| world.holding() == 1).await;
    let two = theatre.drive(second, &stop);
    let said = loop {
        if let Notice::Line { run, text, .. } = feed.recv().await.unwrap()
            && run == second
        {
            break text;
        }
    };
    assert_eq!(said, "waits for another run of `shop` (limits.per_repo is 1)");
    let three = theatre.drive(other, &stop);
    theatre.world.until(|world| world.holding() == 2).await;
    assert_eq!(theatre.events(second).await.len(), 1, "nothing of it has started");
    theatre.world.gate.add_permits(3);
    for driven in [one, two, three] {
        assert_eq!(driven.await.unwrap().unwrap(), Stopped::Ended);
    }
    // The time in the queue is not the run's.
    assert!(matches!(theatre.events(second).await[1], EventBody::Resumed {}));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_person_leaves_its_turn_to_others() {
    let theatre = Theatre::new(World::new(caps(1, 1), false));
    let stop = CancellationToken::new();
    let asks = theatre.accept(Some("shop"), &["ask", "hold"]).await;
    let asking = theatre.drive(asks, &stop);
    // It closes what it keeps once it only waits.
    theatre.world.until(|world| world.told.lock().unwrap().iter().any(|said| said == "close 0")).await;
    let works = theatre.accept(Some("shop"), &["hold"]).await;
    let working = theatre.drive(works, &stop);
    theatre.world.until(|world| world.holding() == 1).await;
    let answer = Request { signal: Signal::Answer { text: "this".into() }, who: who() };
    assert_eq!(theatre.engine.submit(asks, answer).await.unwrap(), Answer::Driven, "a run in the queue still listens");
    theatre.world.gate.add_permits(1);
    assert_eq!(working.await.unwrap().unwrap(), Stopped::Ended);
    theatre.world.gate.add_permits(1);
    assert_eq!(asking.await.unwrap().unwrap(), Stopped::Ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_runs_keep_to_the_caps_and_all_end() {
    let theatre = Theatre::new(World::new(caps(4, 2), false));
    let stop = CancellationToken::new();
    let mut driven = Vec::new();
    for n in 0..24 {
        let repo = ["shop", "bank", "mill"][n % 3];
        driven.push(theatre.drive(theatre.accept(Some(repo), &["hold", "turns"]).await, &stop));
    }
    theatre.world.until(|world| world.holding() == 4).await;
    theatre.world.gate.add_permits(24);
    for driven in driven {
        assert_eq!(driven.await.unwrap().unwrap(), Stopped::Ended);
    }
    assert_eq!(theatre.world.most.load(Ordering::SeqCst), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_in_the_queue_can_be_stopped_and_aborted() {
    let theatre = Theatre::new(World::new(caps(1, 1), false));
    let stop = CancellationToken::new();
    let holds = theatre.drive(theatre.accept(None, &["hold"]).await, &stop);
    theatre.world.until(|world| world.holding() == 1).await;
    let aborted = theatre.accept(None, &["hold"]).await;
    let aborting = theatre.drive(aborted, &stop);
    let abort = Request { signal: Signal::Abort, who: who() };
    theatre.engine.submit(aborted, abort).await.unwrap();
    assert_eq!(aborting.await.unwrap().unwrap(), Stopped::Ended);
    let own = CancellationToken::new();
    let stopped = theatre.accept(None, &["hold"]).await;
    let stopping = theatre.drive(stopped, &own);
    own.cancel();
    assert_eq!(stopping.await.unwrap().unwrap(), Stopped::Interrupted);
    theatre.world.gate.add_permits(1);
    assert_eq!(holds.await.unwrap().unwrap(), Stopped::Ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_the_journal_ends_the_step_and_not_the_engine() {
    let theatre = Theatre::new(World::new(Caps::default(), false));
    let stop = CancellationToken::new();
    for (kind, code) in [
        ("carries-much", "carry_too_large"),
        ("parks-much", "carry_too_large"),
        ("fails-much", "much"),
        ("outputs-much", "output_too_large"),
    ] {
        let run = theatre.accept(None, &[kind]).await;
        assert_eq!(theatre.drive(run, &stop).await.unwrap().unwrap(), Stopped::Ended, "{kind}");
        let events = theatre.events(run).await;
        let failed = events.iter().find_map(|event| match event {
            EventBody::StepFailed { error, .. } => Some(error.clone()),
            _ => None,
        });
        let failed = failed.unwrap_or_else(|| panic!("{kind} did not fail"));
        assert_eq!(failed.code, code);
        assert!(failed.message.len() <= 64 * 1024, "{kind}");
        assert!(matches!(events.last(), Some(EventBody::Finished { status: Ending::Failed, .. })), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attempt_gives_back_its_scope_and_every_run_its_sandbox() {
    let theatre = Theatre::new(World::new(Caps::default(), false));
    let stop = CancellationToken::new();
    let run = theatre.accept(None, &["twice", "turns"]).await;
    assert_eq!(theatre.drive(run, &stop).await.unwrap().unwrap(), Stopped::Ended);
    let mut told = std::mem::take(&mut *theatre.world.told.lock().unwrap());
    assert_eq!(told.pop().as_deref(), Some("close 0"), "last, and after all turns of an attempt");
    told.sort();
    assert_eq!(told, ["release turns/1/1", "release twice/1/1", "release twice/2/1"]);
    // A step that is cut short gives back as well.
    let run = theatre.accept(None, &["hold"]).await;
    let driven = theatre.drive(run, &stop);
    theatre.world.until(|world| world.holding() == 1).await;
    stop.cancel();
    assert_eq!(driven.await.unwrap().unwrap(), Stopped::Interrupted);
    assert_eq!(*theatre.world.told.lock().unwrap(), ["release hold/1/1", "close 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_waited_goes_on_in_a_sandbox_of_its_own() {
    let theatre = Theatre::new(World::new(Caps::default(), false));
    let stop = CancellationToken::new();
    let run = theatre.accept(None, &["ask", "turns"]).await;
    let driven = theatre.drive(run, &stop);
    theatre.world.until(|world| world.told.lock().unwrap().len() == 2).await;
    let answer = Request { signal: Signal::Answer { text: "this".into() }, who: who() };
    theatre.engine.submit(run, answer).await.unwrap();
    assert_eq!(driven.await.unwrap().unwrap(), Stopped::Ended);
    let told = theatre.world.told.lock().unwrap().clone();
    assert_eq!(told[..2], ["release ask/1/1", "close 0"], "nothing is kept while a person is awaited");
    assert_eq!(told.last().map(String::as_str), Some("close 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_never_answers_holds_no_run() {
    let theatre = Theatre::new(World::new(Caps::default(), true));
    let run = theatre.accept(None, &["twice", "turns"]).await;
    assert_eq!(theatre.drive(run, &CancellationToken::new()).await.unwrap().unwrap(), Stopped::Ended);
    assert_eq!(theatre.world.told.lock().unwrap().iter().filter(|said| said.starts_with("release")).count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_equipment_is_gone_stands_still_and_can_be_stopped() {
    let theatre = Theatre::new(World::new(Caps::default(), false));
    let run = theatre.accept(Some("shop"), &["hold", "turns", "always"]).await;
    let stop = CancellationToken::new();
    let driven = theatre.drive(run, &stop);
    theatre.world.until(|world| world.holding() == 1).await;
    stop.cancel();
    assert_eq!(driven.await.unwrap().unwrap(), Stopped::Interrupted);
    theatre.world.missing.store(true, Ordering::SeqCst);
    let before = theatre.events(run).await.len();
    let stands = theatre.drive(run, &CancellationToken::new()).await.unwrap();
    assert!(matches!(stands, Err(EngineError::Outfit(_))), "{stands:?}");
    assert_eq!(theatre.events(run).await.len(), before, "it goes on where it is when the equipment comes back");
    let abort = Request { signal: Signal::Abort, who: who() };
    assert_eq!(theatre.engine.submit(run, abort).await.unwrap(), Answer::Idle);
    assert_eq!(theatre.drive(run, &CancellationToken::new()).await.unwrap().unwrap(), Stopped::Ended);
    let events = theatre.events(run).await;
    let failed = events.iter().find_map(|body| match body {
        EventBody::StepFailed { step, error } => Some((step.to_string(), error.code.clone())),
        _ => None,
    });
    assert_eq!(failed, Some(("always".to_owned(), "unknown_repo".to_owned())), "{events:?}");
    assert!(matches!(events.last(), Some(EventBody::Finished { status: Ending::Aborted, .. })), "{events:?}");
}
