//! Random graphs and limits, and the tape of choices that a simulated run reads. Zero is always the kind choice, so that
//! a shrunk case is a small graph in which almost everything succeeds.

use proptest::prelude::*;

use crate::core::budget::Usd;
use crate::core::event::{Event, EventBody, RunLimits, RunSpec, Who};
use crate::core::graph::{Authority, Node, OnFailure, Retry};
use crate::core::id::StepId;
use crate::core::plan::sha256;
use crate::core::time::Timestamp;

/// When simulated runs begin.
pub const BIRTH: Timestamp = Timestamp(1_764_000_000_000);

pub fn who() -> Who {
    Who { by: "ana".to_owned(), channel: "cli".to_owned() }
}

pub fn id(text: &str) -> StepId {
    StepId::new(text).unwrap()
}

/// What a run is accepted with.
pub fn spec(graph: Vec<Node>, limits: RunLimits) -> RunSpec {
    RunSpec {
        task_id: "0193b2c0-7e1f-7abc-8def-0123456789ab".parse().unwrap(),
        pipeline: "dev-task".to_owned(),
        pipeline_text: "steps: {}\n".to_owned(),
        pipeline_hash: sha256(b"steps: {}\n"),
        repo: Some("shop".to_owned()),
        base: Some("development".to_owned()),
        task: "validar stock negativo".to_owned(),
        inputs: serde_json::Map::new(),
        key: None,
        notify: Vec::new(),
        who: who(),
        graph,
        limits,
        cassette: None,
        sandbox: "bubblewrap".to_owned(),
    }
}

pub fn accepted(graph: Vec<Node>, limits: RunLimits) -> Event {
    Event { seq: 1, at: BIRTH, body: EventBody::Accepted(Box::new(spec(graph, limits))) }
}

/// No limit but the number of steps side by side.
pub fn side_by_side(parallel: usize) -> RunLimits {
    RunLimits { usd: None, tokens: None, wall_ms: None, parallel }
}

/// Choices that a run reads one after the other; all kind once it is used up.
#[derive(Debug, Clone)]
pub struct Tape {
    choices: Vec<u8>,
    at: usize,
}

impl Tape {
    pub fn new(choices: Vec<u8>) -> Self {
        Self { choices, at: 0 }
    }

    pub fn kind() -> Self {
        Self::new(Vec::new())
    }

    pub fn is_used_up(&self) -> bool {
        self.at >= self.choices.len()
    }

    /// One of `n` possibilities; 0 is the kind one.
    pub fn pick(&mut self, n: usize) -> usize {
        let choice = self.choices.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        usize::from(choice) % n
    }

    /// The index of the part of `weights` that the next choice falls into.
    pub fn weighted(&mut self, weights: &[usize]) -> usize {
        let mut left = self.pick(weights.iter().sum());
        for (index, weight) in weights.iter().enumerate() {
            if left < *weight {
                return index;
            }
            left -= weight;
        }
        unreachable!("the choice is below the sum")
    }
}

pub fn tape(length: usize) -> impl Strategy<Value = Tape> {
    proptest::collection::vec(any::<u8>(), length / 8..length).prop_map(Tape::new)
}

/// The raw choices behind one step.
#[derive(Debug, Clone)]
struct Raw {
    needs: u16,
    authority: u8,
    exclusive: bool,
    always: bool,
    attempts: u32,
    delay_ms: u64,
    failure: u8,
    rounds: u32,
    target: u8,
    timeout_ms: Option<u64>,
    place: u8,
}

fn raw() -> impl Strategy<Value = Raw> {
    let shape = (any::<u16>(), any::<u16>(), 0..12u8, prop::bool::weighted(0.35), prop::bool::weighted(0.15));
    let policy = (1..4u32, prop::sample::select(vec![0u64, 10, 300]), 0..6u8, 1..3u32, any::<u8>());
    let rest = (prop::sample::select(vec![None, None, Some(40u64), Some(200), Some(900)]), 0..4u8);
    (shape, policy, rest).prop_map(|((a, b, authority, exclusive, always), policy, (timeout_ms, place))| {
        let (attempts, delay_ms, failure, rounds, target) = policy;
        Raw {
            needs: a & b,
            authority,
            exclusive,
            always,
            attempts,
            delay_ms,
            failure,
            rounds,
            target,
            timeout_ms,
            place,
        }
    })
}

/// A set bit of `mask`, as an index.
fn choose(mask: u16, choice: u8) -> Option<usize> {
    let bits: Vec<usize> = (0..16).filter(|bit| mask >> bit & 1 == 1).collect();
    bits.get(usize::from(choice) % bits.len().max(1)).copied()
}

/// Steps that always make a graph: `gated` begins with a plan and its approval.
fn build(raws: Vec<Raw>, gated: bool) -> Vec<Node> {
    let mut upstream: Vec<u16> = Vec::new();
    let mut planned: Vec<bool> = Vec::new();
    let mut approved: Vec<bool> = Vec::new();
    let mut nodes: Vec<(u8, Node)> = Vec::new();
    for (at, raw) in raws.into_iter().enumerate() {
        let mut needs = raw.needs & ((1 << at) - 1);
        if gated && at == 1 {
            needs = 1;
        } else if gated && at > 1 && raw.authority != 1 {
            needs |= 2;
        }
        let above = (0..at).filter(|up| needs >> up & 1 == 1).fold(0, |all, up| all | 1 << up | upstream[up]);
        let ups = || (0..at).filter(|up| above >> up & 1 == 1);
        let authority_of = |up: usize| nodes[up].1.authority;
        let plan_above = ups().find(|up| authority_of(*up) == Authority::Plans);
        let gate_above = ups().any(|up| authority_of(up) == Authority::Approves && planned[up]);
        let authority = match raw.authority {
            _ if gated && at == 0 => Authority::Plans,
            _ if gated && at == 1 => Authority::Approves,
            1 => Authority::Plans,
            2 if plan_above.is_some() => Authority::Approves,
            3.. if gate_above => Authority::Acts,
            _ => Authority::Free,
        };
        let name = |at: usize| id(&format!("s{at}"));
        let on_failure = match raw.failure {
            0 | 1 => OnFailure::Stop,
            2 => OnFailure::Continue,
            _ => OnFailure::Rewind {
                to: name(choose(above, raw.target).filter(|_| raw.failure < 5).unwrap_or(at)),
                rounds: raw.rounds,
            },
        };
        let kind = match authority {
            Authority::Free => "shell",
            Authority::Plans => "plan",
            Authority::Approves => "approve",
            Authority::Acts => "execute-loop",
        };
        let node = Node {
            needs: (0..at).filter(|up| needs >> up & 1 == 1).map(name).collect(),
            authority,
            exclusive: raw.exclusive,
            always: raw.always,
            timeout_ms: raw.timeout_ms,
            retry: Retry { attempts: raw.attempts, delay_ms: raw.delay_ms, backoff: 2.0, max_delay_ms: 500 },
            on_failure,
            revise: plan_above.filter(|_| authority == Authority::Approves && raw.target % 4 != 3).map(name),
            ..Node::new(name(at), kind)
        };
        upstream.push(above);
        planned.push(plan_above.is_some());
        approved.push(gate_above);
        nodes.push((raw.place, node));
    }
    // File order is not the order of needs.
    nodes.sort_by_key(|(place, _)| *place);
    nodes.into_iter().map(|(_, node)| node).collect()
}

pub fn nodes() -> impl Strategy<Value = Vec<Node>> {
    (proptest::collection::vec(raw(), 1..13), any::<bool>()).prop_map(|(raws, gated)| build(raws, gated))
}

pub fn limits() -> impl Strategy<Value = RunLimits> {
    let wall = prop::sample::select(vec![None, None, None, None, Some(150u64), Some(1_500)]);
    let usd = prop::sample::select(vec![None, Some(Usd(40)), Some(Usd(400))]);
    let tokens = prop::sample::select(vec![None, Some(60u64), Some(600)]);
    (0..5usize, wall, usd, tokens).prop_map(|(parallel, wall_ms, usd, tokens)| RunLimits {
        usd,
        tokens,
        wall_ms,
        parallel,
    })
}
