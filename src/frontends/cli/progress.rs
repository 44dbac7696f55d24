//! Live progress on standard error: a line per step with a spinner on a terminal, a plain line per change elsewhere.
//!
//! It is told what happened and how the run stands; it decides nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::screen::{Ink, Out, Screen, clip, pad};
use super::show::step_mark;
use crate::core::event::{Event, EventBody, QuestionKind};
use crate::core::graph::Graph;
use crate::core::id::StepId;
use crate::core::state::{Phase, RunState, StepState};
use crate::core::time::Timestamp;
use crate::frontends::figures::{dollars, duration, tokens};
use crate::secrets::printable;
use crate::steps::Stream;

/// Between two signs of life of a quiet run, where no spinner shows one.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// Steps that get a spinner of their own; more are counted on one line.
const SPINNERS: usize = 12;
/// Between two frames of a spinner.
const FRAME: Duration = Duration::from_millis(120);

/// How progress is shown.
pub struct Progress<'a> {
    out: &'a Out,
    how: How,
    /// 1 shows notes as lines, 2 what commands print as well.
    verbose: u8,
    notes: HashMap<StepId, String>,
    name: usize,
    last: Instant,
}

enum How {
    None,
    Plain,
    Spinners { all: MultiProgress, bars: HashMap<StepId, ProgressBar>, more: Option<ProgressBar> },
}

impl<'a> Progress<'a> {
    /// Where it is shown.
    pub fn out(&self) -> &'a Out {
        self.out
    }

    /// `quiet` shows nothing; otherwise the stream decides.
    pub fn new(out: &'a Out, quiet: bool, verbose: u8) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let how = if quiet {
            How::None
        } else if out.terminal && !dumb {
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
            How::Spinners { all, bars: HashMap::new(), more: None }
        } else {
            How::Plain
        };
        Self { out, how, verbose, notes: HashMap::new(), name: 8, last: Instant::now() }
    }

    fn screen(&self) -> &Screen {
        &self.out.screen
    }

    /// A line that stays.
    pub fn line(&mut self, text: &str) {
        self.last = Instant::now();
        match &self.how {
            How::None => {}
            How::Plain => self.out.line(text),
            How::Spinners { all, .. } => all.suspend(|| self.out.line(text)),
        }
    }

    /// Takes the spinners away, so that something else can use the screen; they come back with the next change.
    pub fn rest(&mut self) {
        if let How::Spinners { all, bars, more } = &mut self.how {
            for bar in bars.drain().map(|(_, bar)| bar).chain(more.take()) {
                bar.finish_and_clear();
                all.remove(&bar);
            }
            let _ = all.clear();
        }
    }

    /// An event was recorded, and the run stands as given.
    pub fn event(&mut self, event: &Event, graph: &Graph, state: &RunState) {
        if matches!(self.how, How::None) {
            return;
        }
        if matches!(event.body, EventBody::Accepted(_)) {
            let longest = graph.nodes().map(|node| node.id.as_str().len()).max().unwrap_or(0);
            self.name = longest.clamp(4, 30);
        }
        if let Some(text) = self.told(event, graph, state) {
            self.line(&text);
        }
        self.tick(graph, state, event.at);
    }

    /// What an event says to a person, if it says anything.
    fn told(&self, event: &Event, graph: &Graph, state: &RunState) -> Option<String> {
        let plain = matches!(self.how, How::Plain);
        let step = |id: &StepId, word: &str, rest: String| Some(self.step_text(id, word, &rest));
        let figures = |id: &StepId| graph.find(id).map(|at| figures(state.step(at), event.at)).unwrap_or_default();
        match &event.body {
            EventBody::StepStarted { step: id, attempt, round, turn: 1 } if plain => {
                let mut notes = Vec::new();
                if *round > 1 {
                    notes.push(format!("round {round}"));
                }
                if *attempt > 1 {
                    notes.push(format!("attempt {attempt}"));
                }
                step(id, "running", notes.join(", "))
            }
            EventBody::StepSucceeded { step: id, .. } => step(id, "succeeded", figures(id)),
            EventBody::StepSkipped { step: id, reason } => step(id, "skipped", reason.clone()),
            EventBody::StepFailed { step: id, error } => {
                step(id, "failed", format!("{}: {}", figures(id), first_line(&error.message)))
            }
            EventBody::StepCancelled { step: id, reason } => step(id, "cancelled", reason.clone()),
            EventBody::StepParked { step: id, reason, until, .. } => {
                step(id, "waiting", format!("{} (again at {until})", first_line(reason)))
            }
            EventBody::StepInterrupted { step: id, reason: None } => {
                step(id, "stopped", "it goes on when the run is resumed".to_owned())
            }
            EventBody::StepInterrupted { step: id, reason: Some(reason) } => {
                step(id, "lost", format!("{}; it runs again", first_line(reason)))
            }
            EventBody::StepAsked { step: id, question, .. } => step(id, "waiting", asked(question.kind).to_owned()),
            EventBody::Approved { step: id, revision, who, .. } => {
                step(id, "approved", format!("revision {revision}, by {} ({})", who.by, who.channel))
            }
            EventBody::Revised { step: id, who, text } => {
                step(id, "revised", format!("by {} ({}): {}", who.by, who.channel, first_line(text)))
            }
            EventBody::Rejected { step: id, who, .. } => {
                step(id, "rejected", format!("by {} ({})", who.by, who.channel))
            }
            EventBody::Answered { step: id, who, .. } => {
                step(id, "answered", format!("by {} ({})", who.by, who.channel))
            }
            EventBody::Rewound { from, to } => step(from, "rewind", format!("back to {to}")),
            EventBody::AbortRequested { who } => {
                Some(format!("abort asked for by {} ({})", printable(&who.by), who.channel))
            }
            EventBody::WallLimitReached {} => Some("the run's time limit has passed".to_owned()),
            // What a failure cancels has no event of its own: it follows from the graph.
            EventBody::Finished { .. } => {
                let unheard = (0..graph.len()).map(|at| (&graph.node(at).id, state.step(at)));
                let unheard = unheard.filter(|(_, step)| step.phase == Phase::Cancelled && step.finished_at.is_none());
                let lines: Vec<String> = unheard
                    .take(SPINNERS)
                    .map(|(id, step)| self.step_text(id, "cancelled", step.reason.as_deref().unwrap_or_default()))
                    .collect();
                (!lines.is_empty()).then(|| lines.join("\n"))
            }
            _ => None,
        }
    }

    fn step_text(&self, id: &StepId, word: &str, rest: &str) -> String {
        let (mark, ink) = match word {
            "approved" | "answered" => ("✓", Ink::Green),
            "rejected" => ("✗", Ink::Red),
            "revised" | "rewind" => ("↺", Ink::Yellow),
            "stopped" => ("■", Ink::Dim),
            word => step_mark(word),
        };
        let name = pad(&clip(id.as_str(), self.name), self.name);
        let word = self.screen().paint(ink, &pad(word, 9));
        let line = format!("{} {name}  {word}  {}", self.screen().paint(ink, mark), printable(rest));
        line.trim_end().to_owned()
    }

    /// A line of a step's log.
    pub fn log(&mut self, id: &StepId, stream: Stream, text: &str) {
        let shown = match stream {
            Stream::Note => self.verbose >= 1,
            Stream::Stdout | Stream::Stderr => self.verbose >= 2,
        };
        if shown {
            let name = self.screen().paint(Ink::Dim, &format!("{} |", pad(&clip(id.as_str(), self.name), self.name)));
            self.line(&format!("  {name} {}", printable(text)));
        }
        if stream == Stream::Note || !self.notes.contains_key(id) {
            self.notes.insert(id.clone(), printable(text));
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, graph: &Graph, state: &RunState, now: Timestamp) {
        let running: Vec<(&StepId, &StepState)> =
            state.running().map(|at| (&graph.node(at).id, state.step(at))).collect();
        self.notes.retain(|id, _| running.iter().any(|(other, _)| *other == id));
        match &mut self.how {
            How::None => {}
            How::Plain => {
                if self.last.elapsed() >= HEARTBEAT && !running.is_empty() {
                    let lines: Vec<String> = running
                        .iter()
                        .take(SPINNERS)
                        .map(|(id, step)| self.step_text(id, "running", &figures(step, now)))
                        .collect();
                    for line in lines {
                        self.line(&line);
                    }
                }
            }
            How::Spinners { all, bars, more } => {
                bars.retain(|id, bar| {
                    let stays = running.iter().any(|(other, _)| *other == id);
                    if !stays {
                        bar.finish_and_clear();
                        all.remove(bar);
                    }
                    stays
                });
                let screen = &self.out.screen;
                for (id, step) in &running {
                    if !bars.contains_key(*id) {
                        if bars.len() >= SPINNERS {
                            continue;
                        }
                        bars.insert((*id).clone(), spinner(all, screen));
                    }
                    let note = self.notes.get(*id).map(|note| format!(" · {note}")).unwrap_or_default();
                    let name = pad(&clip(id.as_str(), self.name), self.name);
                    let text = clip(&format!("{name}  {}{note}", figures(step, now)), screen.width.saturating_sub(3));
                    bars[*id].set_message(text);
                }
                let hidden = running.len().saturating_sub(bars.len());
                if hidden == 0 {
                    if let Some(bar) = more.take() {
                        bar.finish_and_clear();
                        all.remove(&bar);
                    }
                } else {
                    let bar = more.get_or_insert_with(|| spinner(all, screen));
                    bar.set_message(format!("… and {hidden} more"));
                }
            }
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.rest();
    }
}

fn spinner(all: &MultiProgress, screen: &Screen) -> ProgressBar {
    let template = if screen.color { "{spinner:.cyan} {msg}" } else { "{spinner} {msg}" };
    let style = ProgressStyle::with_template(template).expect("the template is a constant");
    let bar = all.add(ProgressBar::new_spinner().with_style(style));
    bar.enable_steady_tick(FRAME);
    bar
}

/// `3m 05s, turn 4, 12.3k tokens, $0.03`.
fn figures(step: &StepState, now: Timestamp) -> String {
    let mut parts = Vec::new();
    if let Some(start) = step.started_at {
        parts.push(duration(step.finished_at.unwrap_or(now).since(start)));
    }
    if step.turn > 1 {
        parts.push(format!("turn {}", step.turn));
    }
    if step.calls > 0 {
        parts.push(format!("{} tokens", tokens(step.usage.total())));
        parts.push(dollars(step.usd.dollars()));
    }
    parts.join(", ")
}

fn asked(kind: QuestionKind) -> &'static str {
    match kind {
        QuestionKind::Approval => "for an approval of the plan",
        QuestionKind::Answer => "for an answer",
        QuestionKind::Budget => "for more budget",
    }
}

fn first_line(text: &str) -> &str {
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default()
}
