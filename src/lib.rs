//! dev-orchestrator: a declarative pipeline engine that takes a development task to a pushed branch.
//!
//! The map, from what knows nothing to what knows everything (a test keeps it true):
//!
//! | level | module | is |
//! | --- | --- | --- |
//! | 1 | [`core`] | pure: graph, events, state, scheduler, budget; no I/O, clock, randomness |
//! | 1 | [`yaml`] [`templates`] [`secrets`] | the YAML reader with positions; minijinja; masking |
//! | 2 | [`journal`] [`workspace`] [`sandboxes`] [`prompts`] [`providers`] | equipment; never know each other |
//! | 3 | [`agent`], then [`steps`] | the tool loop; one file per step type |
//! | 4 | [`pipeline`] | text → checked graph |
//! | 5 | [`engine`] | drives one run: events in, effects out |
//! | 6 | [`frontends`] | command line (and later inbox, web, chat) |
//! | 7 | [`app`] [`config`] [`error`] | composition root, settings, what a person sees of an error |
#![forbid(unsafe_code)]

pub mod agent;
pub mod app;
pub mod config;
pub mod core;
pub mod engine;
pub mod error;
pub mod frontends;
pub mod journal;
pub mod pipeline;
pub mod prompts;
pub mod providers;
pub mod sandboxes;
pub mod secrets;
pub mod steps;
pub mod templates;
pub mod workspace;
pub mod yaml;
