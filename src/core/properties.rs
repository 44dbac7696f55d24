//! The promises of the core as properties: random graphs, limits, outcomes, people, crashes and clocks. It does not know
//! how the state is kept; `oracle` keeps its own books, `driver` stands for the engine, `world` makes what is random.

mod driver;
mod oracle;
pub mod world;

use proptest::prelude::*;

use super::event::{Ending, Event, EventBody, QuestionKind};
use super::graph::{Authority, Node, OnFailure};
use super::request::{REVISIONS_MAX, Signal};
use super::state::{LOST_MAX, Phase, TURNS_MAX};
use driver::{Move, Sim};
use world::{BIRTH, Tape, id, limits, nodes, side_by_side, tape};

fn config(cases: u32) -> ProptestConfig {
    // A failure prints its smallest case, which is worth a test of its own; no files beside the source.
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(1_000))]

    #[test]
    fn every_run_keeps_its_promises(nodes in nodes(), limits in limits(), tape in tape(400)) {
        let mut sim = Sim::new(nodes, limits, tape);
        sim.run();
        sim.check_history()?;
    }
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn killed_at_any_event_a_run_is_taken_up_and_ends(nodes in nodes(), limits in limits(), tape in tape(150)) {
        let mut sim = Sim::new(nodes, limits, tape.clone());
        sim.run();
        for killed_after in 2..sim.events.len() {
            let mut next = Sim::over(sim.events[..killed_after].to_vec(), Tape::kind());
            if next.state.ending().is_some() {
                continue;
            }
            next.crash();
            next.run();
            next.check_history()?;
        }
    }
}

/// What a run does that never does anything else.
fn worst() -> impl Strategy<Value = Worst> {
    let fail = |retryable, feedback| Worst::Every(Move::Fail { retryable, feedback });
    prop::sample::select(vec![
        fail(true, true),
        fail(true, false),
        fail(false, true),
        Worst::Every(Move::Interrupt),
        Worst::Crash,
        Worst::NeverEnd,
        Worst::Revise,
    ])
}

#[derive(Debug, Clone, Copy)]
enum Worst {
    Every(Move),
    Crash,
    /// Only limits end anything.
    NeverEnd,
    /// Everything succeeds, and the person is never content.
    Revise,
}

/// More events than the policies of these steps and the bounds of the core allow, without any tape.
fn most_events(nodes: &[Node]) -> usize {
    let rewinds: usize = nodes
        .iter()
        .map(|node| if let OnFailure::Rewind { rounds, .. } = node.on_failure { rounds as usize } else { 0 })
        .sum();
    let tries: usize = nodes.iter().map(|node| node.retry.attempts as usize + LOST_MAX as usize + 1).sum();
    let revisions = nodes.iter().filter(|node| node.revise.is_some()).count() * REVISIONS_MAX as usize;
    // A try is a start, a question, an answer, a start and an end, and possibly a crash.
    10 + tries * (1 + rewinds) * (1 + revisions) * 6
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn the_worst_outcome_every_time_still_ends(nodes in nodes(), worst in worst(), parallel in 1..4usize) {
        let most = most_events(&nodes);
        let mut limits = side_by_side(parallel);
        if matches!(worst, Worst::NeverEnd) {
            limits.wall_ms = Some(2_000);
        }
        let mut sim = Sim::new(nodes, limits, Tape::kind());
        while sim.state.ending().is_none() {
            prop_assert!(sim.events.len() <= most, "{} events", sim.events.len());
            if sim.perform_due() {
                continue;
            }
            sim.check();
            let running = sim.state.running().next();
            match (worst, running) {
                (Worst::Every(outcome), Some(at)) => sim.end_turn(at, outcome),
                (Worst::Crash, Some(_)) => sim.crash(),
                // The run's limit spares clean-up; where that has no limit of its own only a person can end it.
                (Worst::NeverEnd, Some(_)) if !sim.sleep() => {
                    let aborted = sim.signal(Signal::Abort);
                    prop_assert!(sim.state.halting() && aborted.is_ok());
                }
                (Worst::NeverEnd, Some(_)) => {}
                (Worst::Revise, None) if sim.state.waiting().next().is_some() => {
                    if sim.signal(Signal::Revise { text: "no".to_owned() }).is_err() {
                        sim.answer();
                    }
                }
                _ => sim.advance(),
            }
        }
        sim.check_history()?;
    }
}

#[test]
fn a_try_that_never_ends_is_ended() {
    for outcome in [Move::Continue, Move::Park, Move::Ask(QuestionKind::Answer)] {
        let mut sim = Sim::new(vec![Node::new(id("s0"), "shell")], side_by_side(1), Tape::kind());
        while sim.state.ending().is_none() {
            sim.fast = true;
            if !sim.perform_due() {
                let running = sim.state.running().next();
                match running {
                    Some(at) => sim.end_turn(at, outcome),
                    None => sim.advance(),
                }
            }
        }
        let (ending, error) = sim.state.ending().unwrap();
        assert_eq!((*ending, error.as_ref().unwrap().code.as_str()), (Ending::Failed, "too_many_turns"));
        assert_eq!(sim.state.step(0).turn, TURNS_MAX);
    }
}

#[test]
fn a_step_that_kills_the_engine_is_given_up() {
    let mut sim = Sim::new(vec![Node::new(id("s0"), "shell")], side_by_side(1), Tape::kind());
    while sim.state.ending().is_none() {
        if !sim.perform_due() {
            sim.crash();
        }
    }
    let (ending, error) = sim.state.ending().unwrap();
    assert_eq!((*ending, error.as_ref().unwrap().code.as_str()), (Ending::Failed, "interrupted"));
    assert_eq!(sim.state.step(0).attempt, LOST_MAX + 1);
}

/// A step that used up its way back has it again when a person asks for another plan.
#[test]
fn a_revision_is_a_new_beginning() {
    let plan = Node { authority: Authority::Plans, ..Node::new(id("plan"), "plan") };
    let look = Node {
        needs: vec![id("plan")],
        on_failure: OnFailure::Rewind { to: id("plan"), rounds: 1 },
        ..Node::new(id("look"), "shell")
    };
    let approve = Node {
        needs: vec![id("look")],
        authority: Authority::Approves,
        revise: Some(id("plan")),
        ..Node::new(id("approve"), "approve")
    };
    let mut sim = Sim::new(vec![plan, look, approve], side_by_side(1), Tape::kind());
    let (fails, mut round) = (Move::Fail { retryable: false, feedback: true }, 0);
    for end in [fails, Move::Succeed, fails, Move::Succeed] {
        while *sim.state.phase(1) != Phase::Running {
            if !sim.perform_due() && *sim.state.phase(1) != Phase::Running {
                sim.advance();
            }
        }
        round += 1;
        assert_eq!(sim.state.step(1).round, round);
        sim.end_turn(1, end);
        if end == Move::Succeed && round == 2 {
            while sim.state.waiting().next().is_none() {
                if !sim.perform_due() {
                    sim.advance();
                }
            }
            sim.signal(Signal::Revise { text: "smaller".to_owned() }).unwrap();
        }
    }
    sim.run();
    assert_eq!(sim.state.ending().unwrap().0, Ending::Completed);
}

proptest! {
    /// A number that a step puts out is the same number after a restart.
    #[test]
    fn numbers_survive_the_stored_form(number in any::<f64>().prop_filter("JSON has no others", |n| n.is_finite())) {
        let output = serde_json::json!({ "n": number });
        let event = Event { seq: 2, at: BIRTH, body: EventBody::StepSucceeded { step: id("s0"), output } };
        let stored = serde_json::to_string(&event).unwrap();
        prop_assert_eq!(serde_json::from_str::<Event>(&stored).unwrap(), event);
    }
}
