//! Containers by Docker's API.

pub mod compose;
pub mod description;
pub mod devcontainer;
pub mod image;
pub mod services;
mod unfit;

pub use unfit::{Problem, Unfit};

/// The label that names the home whose engine made an object; sweeping looks for it.
pub const HOME_LABEL: &str = "dev.devo.home";
/// The label that names the run that an object belongs to.
pub const RUN_LABEL: &str = "dev.devo.run";
