//! What the core costs on large graphs, as ratios within one run: `due` must not grow with the graph, applying an event
//! must not grow with the journal. It measures nothing but the core; run it with `cargo bench --bench scheduler`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use devo::core::event::{Event, EventBody, RunLimits, RunSpec, Who};
use devo::core::graph::{Graph, Node};
use devo::core::id::StepId;
use devo::core::scheduler::{Effect, due, wake_at};
use devo::core::state::RunState;
use devo::core::time::Timestamp;

const SMALL: usize = 100;
const LARGE: usize = 10_000;
const BIRTH: Timestamp = Timestamp(1_764_000_000_000);

fn step(at: usize) -> StepId {
    StepId::new(&format!("s{at}")).expect("a letter and digits")
}

fn accepted(nodes: Vec<Node>) -> Event {
    let spec = RunSpec {
        task_id: "0193b2c0-7e1f-7abc-8def-0123456789ab".parse().expect("a UUID"),
        pipeline: "bench".to_owned(),
        pipeline_text: String::new(),
        pipeline_hash: String::new(),
        repo: None,
        base: None,
        task: String::new(),
        inputs: serde_json::Map::new(),
        key: None,
        notify: Vec::new(),
        who: Who { by: "bench".to_owned(), channel: "cli".to_owned() },
        graph: nodes,
        limits: RunLimits { usd: None, tokens: None, wall_ms: Some(u64::MAX / 2), parallel: 4 },
        cassette: None,
        sandbox: "host".to_owned(),
    };
    Event { seq: 1, at: BIRTH, body: EventBody::Accepted(Box::new(spec)) }
}

fn node(at: usize, needs: Vec<StepId>) -> Node {
    Node { needs, timeout_ms: Some(60_000), ..Node::new(step(at), "shell") }
}

/// Each step needs the one before.
fn chain(size: usize) -> Vec<Node> {
    (0..size).map(|at| node(at, at.checked_sub(1).map(step).into_iter().collect())).collect()
}

/// All but the first need the first, and the last needs all of them.
fn fan(size: usize) -> Vec<Node> {
    let mut nodes: Vec<Node> =
        (0..size - 1).map(|at| node(at, (at > 0).then(|| step(0)).into_iter().collect())).collect();
    nodes.push(node(size - 1, (1..size - 1).map(step).collect()));
    nodes
}

struct Driven {
    events: Vec<Event>,
    graph: Graph,
    /// The run after half of its events, when most things are under way.
    half: RunState,
    /// Median cost of applying one event.
    apply: Duration,
}

/// Drives a run to its end with steps that succeed at once.
fn drive(nodes: Vec<Node>) -> Driven {
    let size = nodes.len();
    let mut events = vec![accepted(nodes)];
    let (graph, mut state) = RunState::accept(&events[0]).expect("a valid graph");
    let (mut costs, mut half) = (Vec::new(), None);
    while state.ending().is_none() {
        let effects = due(&graph, &state, BIRTH);
        let bodies: Vec<EventBody> = if effects.is_empty() {
            let at = state.running().next().expect("something runs");
            vec![EventBody::StepSucceeded { step: graph.node(at).id.clone(), output: serde_json::json!({"n": at}) }]
        } else {
            let mut bodies = Vec::new();
            for effect in effects {
                bodies.push(match effect {
                    Effect::Start(at) => {
                        let (attempt, round, turn) = state.next_start(at);
                        EventBody::StepStarted { step: graph.node(at).id.clone(), attempt, round, turn }
                    }
                    Effect::Finish(status, error) => EventBody::Finished { status, error },
                    other => unreachable!("{other:?} in a run that only succeeds"),
                });
            }
            bodies
        };
        for body in bodies {
            let event = Event { seq: state.seq() + 1, at: BIRTH, body };
            let start = Instant::now();
            state.apply(&graph, &event).expect("what is due is legal");
            costs.push(start.elapsed());
            events.push(event);
            if events.len() == size {
                half = Some(state.clone());
            }
        }
    }
    costs.sort_unstable();
    let apply = costs[costs.len() / 2];
    Driven { events, graph, half: half.expect("a run has more events than steps"), apply }
}

/// Median over rounds of the mean of many calls, so that the clock's grain does not matter.
fn median(mut call: impl FnMut()) -> Duration {
    const ROUNDS: usize = 31;
    const CALLS: u32 = 2_000;
    let mut rounds: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            (0..CALLS).for_each(|_| call());
            start.elapsed() / CALLS
        })
        .collect();
    rounds.sort_unstable();
    rounds[ROUNDS / 2]
}

fn cost_of_due(driven: &Driven) -> Duration {
    median(|| {
        black_box(due(black_box(&driven.graph), black_box(&driven.half), black_box(BIRTH)));
        black_box(wake_at(black_box(&driven.graph), black_box(&driven.half)));
    })
}

fn ratio(large: Duration, small: Duration) -> f64 {
    large.as_secs_f64() / small.as_secs_f64().max(1e-12)
}

fn replay(events: &[Event]) -> Duration {
    let mut rounds: Vec<Duration> = (0..5)
        .map(|_| {
            let start = Instant::now();
            black_box(RunState::replay(black_box(events)).expect("what was recorded is legal"));
            start.elapsed()
        })
        .collect();
    rounds.sort_unstable();
    rounds[2]
}

fn main() {
    for (name, shape) in [("chain", chain as fn(usize) -> Vec<Node>), ("fan", fan)] {
        let (small, large) = (drive(shape(SMALL)), drive(shape(LARGE)));
        let (due_small, due_large) = (cost_of_due(&small), cost_of_due(&large));
        println!(
            "{name}: due + wake_at, {SMALL} steps {due_small:?}, {LARGE} steps {due_large:?}, ratio {:.2}",
            ratio(due_large, due_small)
        );
        println!(
            "{name}: apply, median of one event, {SMALL} steps {:?}, {LARGE} steps {:?}, ratio {:.2}",
            small.apply,
            large.apply,
            ratio(large.apply, small.apply)
        );
        let (replay_small, replay_large) = (replay(&small.events), replay(&large.events));
        let each = |took: Duration, events: &[Event]| took / u32::try_from(events.len()).expect("few events");
        let (each_small, each_large) = (each(replay_small, &small.events), each(replay_large, &large.events));
        println!(
            "{name}: replay of {} events {replay_large:?}, {each_large:?} each; of {} events {each_small:?} each, ratio {:.2}",
            large.events.len(),
            small.events.len(),
            ratio(each_large, each_small)
        );
    }
    // A history that is long because one step takes many turns, not because the graph is large.
    let mut events = vec![accepted(chain(10))];
    let (graph, mut state) = RunState::accept(&events[0]).expect("a valid graph");
    while events.len() < 30_000 {
        let at = (0..10).find(|at| !state.phase(*at).is_over()).expect("ten steps of 2,000 turns are enough");
        let step = graph.node(at).id.clone();
        let (attempt, round, turn) = state.next_start(at);
        let end = if turn < 2_000 {
            EventBody::StepContinued { step: step.clone(), carry: serde_json::json!({"turn": turn}) }
        } else {
            EventBody::StepSucceeded { step: step.clone(), output: serde_json::Value::Null }
        };
        for body in [EventBody::StepStarted { step, attempt, round, turn }, end] {
            let event = Event { seq: state.seq() + 1, at: BIRTH, body };
            state.apply(&graph, &event).expect("legal");
            events.push(event);
        }
    }
    let stored: Vec<String> = events.iter().map(|event| serde_json::to_string(event).expect("plain data")).collect();
    let start = Instant::now();
    let read: Vec<Event> = stored.iter().map(|text| serde_json::from_str(text).expect("written above")).collect();
    let reading = start.elapsed();
    println!("turns: replay of {} events {:?}; reading their stored form {reading:?}", read.len(), replay(&read));
}
