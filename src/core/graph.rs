//! The DAG of a run's steps with the policies that scheduling needs; it does not know what a step does.

use std::collections::{HashMap, HashSet};

use petgraph::Direction;
use petgraph::algo::{kosaraju_scc, toposort};
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::{Bfs, Reversed, Walker};
use serde::{Deserialize, Serialize};

use super::id::StepId;

/// What a step may do to the world, which decides what must precede it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Authority {
    /// Nothing that needs an approval.
    #[default]
    Free,
    /// Makes the plan (its output is a [`PlanRecord`](super::plan::PlanRecord)).
    Plans,
    /// Asks a person to approve the plan.
    Approves,
    /// Starts only under an approval of the current plan.
    Acts,
}

/// How often and how soon a failed step is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retry {
    /// All tries of a round, the first included; at least 1.
    pub attempts: u32,
    /// Before the second try, in milliseconds.
    pub delay_ms: u64,
    /// What each further delay is multiplied by.
    pub backoff: f64,
    /// The longest delay, in milliseconds.
    pub max_delay_ms: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 1, delay_ms: 1_000, backoff: 2.0, max_delay_ms: 60_000 }
    }
}

impl Retry {
    /// The wait before try number `next` (2 is the first that waits), in milliseconds.
    pub fn delay_before(&self, next: u32) -> u64 {
        let factor = self.backoff.max(1.0).powi(i32::try_from(next.saturating_sub(2)).unwrap_or(i32::MAX));
        // `as` saturates, and the cap follows.
        ((self.delay_ms as f64 * factor) as u64).min(self.max_delay_ms)
    }
}

/// What a failure without tries left leads to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The steps that need this one are cancelled and the run fails.
    #[default]
    Stop,
    /// The run goes on as if the step had succeeded.
    Continue,
    /// The run goes back to `to`, at most `rounds` times.
    Rewind {
        /// An ancestor.
        to: StepId,
        /// How often.
        rounds: u32,
    },
}

/// A step as the scheduler sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Unique in the graph.
    pub id: StepId,
    /// The step type's name.
    pub kind: String,
    /// Steps that come first.
    #[serde(default)]
    pub needs: Vec<StepId>,
    /// What must precede it.
    #[serde(default)]
    pub authority: Authority,
    /// Whether it must not run beside another exclusive step (it writes the workspace).
    #[serde(default)]
    pub exclusive: bool,
    /// Runs after failures and aborts as well.
    #[serde(default)]
    pub always: bool,
    /// Time limit of one try, waiting and parking excluded, in milliseconds.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Tries.
    #[serde(default)]
    pub retry: Retry,
    /// After the last try.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// For a step that approves: the planning step that a revision goes back to.
    #[serde(default)]
    pub revise: Option<StepId>,
}

impl Node {
    /// A node with defaults.
    pub fn new(id: StepId, kind: &str) -> Self {
        Self {
            id,
            kind: kind.to_owned(),
            needs: Vec::new(),
            authority: Authority::Free,
            exclusive: false,
            always: false,
            timeout_ms: None,
            retry: Retry::default(),
            on_failure: OnFailure::Stop,
            revise: None,
        }
    }
}

/// A set of nodes that is not a DAG of known steps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// Two steps of one name.
    #[error("two steps are called `{0}`")]
    Duplicate(StepId),
    /// A name that no step has.
    #[error("step `{step}` names `{unknown}`, which is not a step")]
    Unknown {
        /// Who names it.
        step: StepId,
        /// The name.
        unknown: StepId,
    },
    /// Steps that wait for each other.
    #[error("steps wait for each other: {}", .0.iter().map(StepId::as_str).collect::<Vec<_>>().join(" → "))]
    Cycle(Vec<StepId>),
    /// A rewind or revision to a step that does not come before.
    #[error("step `{step}` goes back to `{to}`, which does not come before it")]
    NotUpstream {
        /// Who goes back.
        step: StepId,
        /// Where to.
        to: StepId,
    },
    /// A step that may act without an approval upstream.
    #[error("step `{0}` acts on the repository, so a `plan` and then an `approve` step must come before it")]
    Unapproved(StepId),
}

/// Index of a step in its graph: the position in the pipeline file.
pub type StepIndex = usize;

/// Where a step stands among others of its graph ([`Graph::place`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    depth: usize,
    index: StepIndex,
}

/// A checked DAG. Indices are file order.
#[derive(Debug, Clone)]
pub struct Graph {
    graph: DiGraph<Node, ()>,
    index: HashMap<StepId, StepIndex>,
    /// By index: how many steps the longest way to it has.
    depth: Vec<usize>,
}

impl Graph {
    /// Checks names, cycles, targets and the rule that nothing acts unapproved.
    pub fn new(nodes: Vec<Node>) -> Result<Self, GraphError> {
        let mut graph = DiGraph::with_capacity(nodes.len(), nodes.len());
        let mut index = HashMap::with_capacity(nodes.len());
        for node in nodes {
            let id = node.id.clone();
            let at = graph.add_node(node);
            if index.insert(id.clone(), at.index()).is_some() {
                return Err(GraphError::Duplicate(id));
            }
        }
        let lookup = |step: &StepId, name: &StepId| {
            index
                .get(name)
                .map(|at| NodeIndex::new(*at))
                .ok_or_else(|| GraphError::Unknown { step: step.clone(), unknown: name.clone() })
        };
        let mut edges = Vec::new();
        for at in graph.node_indices() {
            let node: &Node = &graph[at];
            // A need that is named twice is one need; asking the graph would walk its edges for each.
            let mut seen = HashSet::with_capacity(node.needs.len());
            for need in &node.needs {
                let from = lookup(&node.id, need)?;
                if seen.insert(from) {
                    edges.push((from, at));
                }
            }
            let targets = match &node.on_failure {
                OnFailure::Rewind { to, .. } => Some(to),
                _ => None,
            };
            for target in targets.into_iter().chain(&node.revise) {
                lookup(&node.id, target)?;
            }
        }
        for (from, to) in edges {
            graph.add_edge(from, to, ());
        }
        let mut this = Self { graph, index, depth: Vec::new() };
        let order = this.check_cycles()?;
        this.depth = this.depths(&order);
        this.check_targets()?;
        this.check_approvals(&order)?;
        Ok(this)
    }

    fn depths(&self, order: &[StepIndex]) -> Vec<usize> {
        let mut depth = vec![0; self.len()];
        for at in order {
            depth[*at] = self.needs(*at).map(|need| depth[need] + 1).max().unwrap_or(0);
        }
        depth
    }

    /// The steps in an order in which each comes after what it needs. Neither search recurses: a chain may be long.
    fn check_cycles(&self) -> Result<Vec<StepIndex>, GraphError> {
        toposort(&self.graph, None).map(|order| order.into_iter().map(NodeIndex::index).collect()).map_err(|found| {
            let at = found.node_id();
            let component = kosaraju_scc(&self.graph).into_iter().find(|component| component.contains(&at));
            GraphError::Cycle(self.cycle_path(at.index(), &component.expect("each step is in one component")))
        })
    }

    /// Walks needs inside the component until a step repeats: a path a → b → a that a person can follow.
    fn cycle_path(&self, from: StepIndex, component: &[NodeIndex]) -> Vec<StepId> {
        let mut path = vec![from];
        loop {
            let last = *path.last().expect("starts with one");
            let next = self
                .needs(last)
                .find(|need| component.iter().any(|member| member.index() == *need))
                .expect("each step of a cycle needs another of it");
            if let Some(start) = path.iter().position(|seen| *seen == next) {
                path.drain(..start);
                path.push(next);
                return path.into_iter().map(|at| self.node(at).id.clone()).collect();
            }
            path.push(next);
        }
    }

    fn check_targets(&self) -> Result<(), GraphError> {
        for at in 0..self.len() {
            let node = self.node(at);
            // A failed step may be the one to try again; a person who wants another plan must not be asked at once.
            let back = match &node.on_failure {
                OnFailure::Rewind { to, .. } if *to != node.id => Some(to),
                _ => None,
            };
            for to in back.into_iter().chain(&node.revise) {
                if !self.comes_before(self.index[to], at) {
                    return Err(GraphError::NotUpstream { step: node.id.clone(), to: to.clone() });
                }
            }
        }
        Ok(())
    }

    /// Nothing acts unless an approving step that itself follows a planning step comes before it.
    fn check_approvals(&self, order: &[StepIndex]) -> Result<(), GraphError> {
        let (mut planned, mut approved) = (vec![false; self.len()], vec![false; self.len()]);
        for at in order {
            for need in self.needs(*at) {
                let authority = self.node(need).authority;
                planned[*at] |= planned[need] || authority == Authority::Plans;
                approved[*at] |= approved[need] || (planned[need] && authority == Authority::Approves);
            }
        }
        match (0..self.len()).find(|at| self.node(*at).authority == Authority::Acts && !approved[*at]) {
            Some(at) => Err(GraphError::Unapproved(self.node(at).id.clone())),
            None => Ok(()),
        }
    }

    /// How many steps there are.
    pub fn len(&self) -> usize {
        self.graph.node_count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The step at an index.
    pub fn node(&self, at: StepIndex) -> &Node {
        &self.graph[NodeIndex::new(at)]
    }

    /// All steps in file order.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.graph.node_weights()
    }

    /// The index of a step.
    pub fn find(&self, id: &StepId) -> Option<StepIndex> {
        self.index.get(id).copied()
    }

    /// Where a step stands: sorted by it, each comes after everything that it needs, and file order decides between
    /// those to which the way is equally long.
    pub fn place(&self, at: StepIndex) -> Place {
        Place { depth: self.depth[at], index: at }
    }

    /// The steps that `at` needs.
    pub fn needs(&self, at: StepIndex) -> impl Iterator<Item = StepIndex> {
        self.graph.neighbors_directed(NodeIndex::new(at), Direction::Incoming).map(NodeIndex::index)
    }

    /// The steps that need `at`.
    pub fn dependents(&self, at: StepIndex) -> impl Iterator<Item = StepIndex> {
        self.graph.neighbors_directed(NodeIndex::new(at), Direction::Outgoing).map(NodeIndex::index)
    }

    /// Everything that comes before `at`, nearest first.
    pub fn upstream(&self, at: StepIndex) -> Vec<StepIndex> {
        self.reach(at, Direction::Incoming)
    }

    /// Whether `first` is upstream of `at`; stops at the first path, so that a near one is found at once.
    fn comes_before(&self, first: StepIndex, at: StepIndex) -> bool {
        let walk = Bfs::new(Reversed(&self.graph), NodeIndex::new(at));
        first != at && walk.iter(Reversed(&self.graph)).any(|seen| seen.index() == first)
    }

    /// Everything that comes after `at`, nearest first.
    pub fn downstream(&self, at: StepIndex) -> Vec<StepIndex> {
        self.reach(at, Direction::Outgoing)
    }

    fn reach(&self, at: StepIndex, direction: Direction) -> Vec<StepIndex> {
        let mut seen = vec![false; self.len()];
        let mut order = Vec::new();
        let mut next = std::collections::VecDeque::from([NodeIndex::new(at)]);
        while let Some(current) = next.pop_front() {
            for neighbour in self.graph.neighbors_directed(current, direction) {
                if !std::mem::replace(&mut seen[neighbour.index()], true) {
                    order.push(neighbour.index());
                    next.push_back(neighbour);
                }
            }
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> StepId {
        StepId::new(text).unwrap()
    }

    fn node(name: &str, needs: &[&str]) -> Node {
        Node { needs: needs.iter().map(|n| id(n)).collect(), ..Node::new(id(name), "shell") }
    }

    #[test]
    fn a_cycle_is_shown_as_a_path() {
        let error = Graph::new(vec![node("a", &["c"]), node("b", &["a"]), node("c", &["b"]), node("d", &["a"])]);
        let Err(GraphError::Cycle(path)) = error else { panic!("{error:?}") };
        assert_eq!(path.len(), 4);
        assert_eq!(path.first(), path.last());
        assert!(matches!(Graph::new(vec![node("a", &["a"])]), Err(GraphError::Cycle(_))));
    }

    #[test]
    fn nothing_acts_without_an_approved_plan_upstream() {
        let plan = Node { authority: Authority::Plans, ..node("plan", &[]) };
        let approve = Node { authority: Authority::Approves, ..node("approve", &["plan"]) };
        let act = |needs: &[&str]| Node { authority: Authority::Acts, ..node("act", needs) };
        assert!(Graph::new(vec![plan.clone(), approve.clone(), act(&["approve"])]).is_ok());
        assert_eq!(
            Graph::new(vec![plan.clone(), approve.clone(), act(&["plan"])]).unwrap_err(),
            GraphError::Unapproved(id("act"))
        );
        let blind = Node { needs: vec![], ..approve };
        assert!(Graph::new(vec![plan, blind, act(&["approve"])]).is_err());
    }

    #[test]
    fn steps_are_placed_by_what_they_need_and_then_by_the_file() {
        let last_first = [node("c", &["b", "a"]), node("b", &["a"]), node("a", &[]), node("d", &["a"])];
        let graph = Graph::new(last_first.to_vec()).unwrap();
        let mut sorted: Vec<StepIndex> = (0..graph.len()).collect();
        sorted.sort_by_key(|at| graph.place(*at));
        assert_eq!(sorted.iter().map(|at| graph.node(*at).id.as_str()).collect::<Vec<_>>(), ["a", "b", "d", "c"]);
    }

    #[test]
    fn a_need_named_twice_is_one() {
        let graph = Graph::new(vec![node("a", &[]), node("b", &["a", "a"])]).unwrap();
        assert_eq!(graph.needs(1).collect::<Vec<_>>(), [0]);
        assert_eq!(graph.dependents(0).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn going_back_needs_a_step_that_came_before() {
        let back = |to: &str| Node { on_failure: OnFailure::Rewind { to: id(to), rounds: 1 }, ..node("b", &["a"]) };
        assert!(Graph::new(vec![node("a", &[]), back("a")]).is_ok());
        assert!(Graph::new(vec![node("a", &[]), back("b")]).is_ok());
        assert!(Graph::new(vec![node("a", &[]), back("c"), node("c", &["b"])]).is_err());
        assert!(Graph::new(vec![node("a", &[]), back("nowhere")]).is_err());
        let revise = |to: &str| Node { revise: Some(id(to)), ..back("b") };
        assert!(Graph::new(vec![node("a", &[]), revise("a")]).is_ok());
        assert!(Graph::new(vec![node("a", &[]), revise("b")]).is_err());
    }

    #[test]
    fn a_long_chain_is_no_deep_recursion() {
        let name = |at: usize| format!("s{at}");
        let chain = |first: &[&str]| {
            let mut nodes = vec![node("s0", first)];
            nodes.extend((1..10_000).map(|at| node(&name(at), &[&name(at - 1)])));
            // A thread with a small stack: what fits here fits everywhere.
            std::thread::Builder::new().stack_size(256 * 1024).spawn(move || Graph::new(nodes)).unwrap().join().unwrap()
        };
        assert_eq!(chain(&[]).unwrap().len(), 10_000);
        let Err(GraphError::Cycle(path)) = chain(&["s9999"]) else { panic!("a ring is a cycle") };
        assert_eq!(path.len(), 10_001);
    }

    #[test]
    fn delays_grow_to_their_cap() {
        let retry = Retry { attempts: 9, delay_ms: 100, backoff: 2.0, max_delay_ms: 1_000 };
        let delays: Vec<u64> = (2..8).map(|next| retry.delay_before(next)).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(retry.delay_before(u32::MAX), 1_000);
    }
}
