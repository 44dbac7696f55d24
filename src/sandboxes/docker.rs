//! Containers by Docker's API.

pub mod description;
pub mod image;
pub mod services;

/// The label that names the home whose engine made an object; sweeping looks for it.
pub const HOME_LABEL: &str = "dev.devo.home";
/// The label that names the run that an object belongs to.
pub const RUN_LABEL: &str = "dev.devo.run";
