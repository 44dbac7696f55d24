//! Figures for Prometheus: what there is, from the journal; what happened since the daemon started, from its events. Labels
//! are words of ours (statuses, step types, roles), never ids or texts of people.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tokio::sync::broadcast::error::RecvError;

use super::Site;
use super::guard::Caller;
use super::problem::Problem;
use crate::core::event::{Event, EventBody, QuestionKind};
use crate::core::id::{RunId, StepId};
use crate::core::time::Timestamp;
use crate::engine::Notice;

/// Upper bounds of step durations, in seconds.
const STEP_SECONDS: &[f64] = &[0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0];
/// Upper bounds of how long a plan waited for its approval, in seconds.
const WAIT_SECONDS: &[f64] = &[10.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0];

/// A histogram.
#[derive(Debug, Clone)]
struct Histogram {
    bounds: &'static [f64],
    counts: Vec<u64>,
    sum: f64,
    count: u64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len()], sum: 0.0, count: 0 }
    }

    fn add(&mut self, value: f64) {
        for (bound, count) in self.bounds.iter().zip(&mut self.counts) {
            *count += u64::from(value <= *bound);
        }
        self.sum += value;
        self.count += 1;
    }

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        let with = |more: &str| match (labels, more) {
            ("", "") => String::new(),
            ("", one) | (one, "") => format!("{{{one}}}"),
            (one, two) => format!("{{{one},{two}}}"),
        };
        for (bound, count) in self.bounds.iter().zip(&self.counts) {
            let _ = writeln!(out, "{name}_bucket{} {count}", with(&format!("le=\"{bound}\"")));
        }
        let _ = writeln!(out, "{name}_bucket{} {}", with("le=\"+Inf\""), self.count);
        let _ = writeln!(out, "{name}_sum{} {}", with(""), self.sum);
        let _ = writeln!(out, "{name}_count{} {}", with(""), self.count);
    }
}

#[derive(Debug, Clone, Default)]
struct Spent {
    input: u64,
    output: u64,
    calls: u64,
    usd: f64,
}

#[derive(Default)]
struct Seen {
    steps: BTreeMap<String, Histogram>,
    waits: Option<Histogram>,
    spent: BTreeMap<String, Spent>,
    /// What is open: forgotten when its run ends, so that this does not grow.
    open: HashMap<RunId, Open>,
}

#[derive(Default)]
struct Open {
    kinds: HashMap<StepId, String>,
    started: HashMap<StepId, Timestamp>,
    asked: Option<Timestamp>,
    roles: HashMap<u32, String>,
}

/// What happened since the daemon started.
#[derive(Default)]
pub struct Figures {
    seen: Mutex<Seen>,
}

impl Figures {
    /// Counts an event. `first` is the run's acceptance, if it is at hand.
    fn count(&self, run: RunId, event: &Event) {
        let mut seen = self.seen.lock().expect("no holder of this lock can panic");
        let seen = &mut *seen;
        let open = seen.open.entry(run).or_default();
        match &event.body {
            EventBody::Accepted(spec) => {
                open.kinds = spec.graph.iter().map(|node| (node.id.clone(), node.kind.clone())).collect();
            }
            EventBody::StepStarted { step, turn: 1, .. } => {
                open.started.insert(step.clone(), event.at);
            }
            EventBody::StepAsked { question, .. } if question.kind == QuestionKind::Approval => {
                open.asked = Some(event.at);
            }
            EventBody::Approved { .. } => {
                if let Some(asked) = open.asked.take() {
                    let waits = seen.waits.get_or_insert_with(|| Histogram::new(WAIT_SECONDS));
                    waits.add(event.at.since(asked) as f64 / 1000.0);
                }
            }
            EventBody::StepSucceeded { step, .. } | EventBody::StepFailed { step, .. } => {
                // A step whose start was before ours is not counted: half a duration is none.
                if let Some(started) = open.started.remove(step) {
                    let kind = open.kinds.get(step).map_or("other", String::as_str);
                    let histogram = seen.steps.entry(kind.to_owned()).or_insert_with(|| Histogram::new(STEP_SECONDS));
                    histogram.add(event.at.since(started) as f64 / 1000.0);
                }
            }
            EventBody::CallStarted { call, role, .. } => {
                open.roles.insert(*call, role.clone());
            }
            EventBody::CallFinished { call, usage, usd, .. } => {
                let role = open.roles.remove(call).unwrap_or_else(|| "other".to_owned());
                let spent = seen.spent.entry(role).or_default();
                spent.input += usage.prompt();
                spent.output += usage.output;
                spent.calls += 1;
                spent.usd += usd.dollars();
            }
            EventBody::Finished { .. } => {
                seen.open.remove(&run);
            }
            _ => {}
        }
    }
}

/// Counts what happens, until the daemon stops.
pub async fn follow(site: Arc<Site>) {
    let mut feed = site.desk.subscribe();
    let stop = site.desk.stopping();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            notice = feed.recv() => match notice {
                Ok(Notice::Event { run, event }) => {
                    let known = site.figures.seen.lock().expect("no holder of this lock can panic").open.contains_key(&run);
                    // Of a run that was accepted before we started, the first event tells the types of its steps.
                    if !known && event.seq > 1 && let Ok(events) = site.desk.events(run, 0).await
                        && let Some(first) = events.first() {
                        site.figures.count(run, first);
                    }
                    site.figures.count(run, &event);
                }
                Ok(_) => {}
                // Figures may miss something; what counts is in the journal.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
        }
    }
}

/// GET /metrics.
pub async fn show(State(site): State<Arc<Site>>, _caller: Caller) -> Result<Response, Problem> {
    let mut census = site.desk.census().await?;
    for status in ["QUEUED", "PLANNING", "PLANNED", "EXECUTING", "COMPLETED", "FAILED", "ABORTED"] {
        census.by_status.entry(status.to_owned()).or_default();
    }
    let (queued, waiting) = (census.by_status["QUEUED"], census.waiting);
    let running = census.open.saturating_sub(queued + waiting);
    let mut out = String::new();
    head(&mut out, "devo_info", "gauge", "The program");
    let _ = writeln!(out, "devo_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    head(&mut out, "devo_runs", "gauge", "Runs by status");
    for (status, count) in census.by_status {
        let _ = writeln!(out, "devo_runs{{status=\"{status}\"}} {count}");
    }
    for (name, about, value) in [
        ("devo_runs_running", "Runs that have not ended and wait for nobody", running),
        ("devo_runs_queued", "Runs that have not begun", queued),
        ("devo_runs_waiting_human", "Runs that wait for a person", waiting),
    ] {
        head(&mut out, name, "gauge", about);
        let _ = writeln!(out, "{name} {value}");
    }
    let seen = site.figures.seen.lock().expect("no holder of this lock can panic");
    head(&mut out, "devo_approval_wait_seconds", "histogram", "How long plans waited for their approval");
    seen.waits.clone().unwrap_or_else(|| Histogram::new(WAIT_SECONDS)).write(
        &mut out,
        "devo_approval_wait_seconds",
        "",
    );
    head(&mut out, "devo_step_duration_seconds", "histogram", "How long steps took, by type");
    for (kind, histogram) in &seen.steps {
        histogram.write(&mut out, "devo_step_duration_seconds", &format!("type=\"{kind}\""));
    }
    head(&mut out, "devo_tokens_total", "counter", "Tokens since the start");
    for (role, spent) in &seen.spent {
        let _ = writeln!(out, "devo_tokens_total{{role=\"{role}\",direction=\"input\"}} {}", spent.input);
        let _ = writeln!(out, "devo_tokens_total{{role=\"{role}\",direction=\"output\"}} {}", spent.output);
    }
    head(&mut out, "devo_calls_total", "counter", "Model calls since the start");
    for (role, spent) in &seen.spent {
        let _ = writeln!(out, "devo_calls_total{{role=\"{role}\"}} {}", spent.calls);
    }
    head(&mut out, "devo_usd_total", "counter", "US dollars since the start");
    for (role, spent) in &seen.spent {
        let _ = writeln!(out, "devo_usd_total{{role=\"{role}\"}} {}", spent.usd);
    }
    drop(seen);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], out).into_response())
}

fn head(out: &mut String, name: &str, kind: &str, about: &str) {
    let _ = writeln!(out, "# HELP {name} {about}\n# TYPE {name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative() {
        let mut histogram = Histogram::new(&[1.0, 2.0]);
        [0.5, 1.5, 3.0].into_iter().for_each(|value| histogram.add(value));
        let mut out = String::new();
        histogram.write(&mut out, "x", "type=\"a\"");
        let wanted = "x_bucket{type=\"a\",le=\"1\"} 1\nx_bucket{type=\"a\",le=\"2\"} 2\nx_bucket{type=\"a\",le=\"+Inf\"} 3\n\
                      x_sum{type=\"a\"} 5\nx_count{type=\"a\"} 3\n";
        assert_eq!(out, wanted);
    }
}
