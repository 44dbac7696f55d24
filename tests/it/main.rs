//! End-to-end tests: the built binary, real git, real sandboxes, models behind a local fake of their wire formats.

mod fake;
mod layers;
mod world;
