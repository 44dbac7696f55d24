//! The pure heart: what a run is, what may happen to it, and what is due next.
//!
//! Nothing here does I/O, awaits, reads a clock, draws a random number or looks at the environment: time and ids are
//! arguments. One fold ([`RunState::apply`](state::RunState::apply)) makes both live and recovered state.

pub mod budget;
pub mod domain;
pub mod event;
pub mod failure;
pub mod graph;
pub mod id;
pub mod plan;
#[cfg(test)]
pub(crate) mod properties;
pub mod report;
pub mod request;
pub mod rings;
pub mod scheduler;
pub mod service;
pub mod state;
pub mod time;
