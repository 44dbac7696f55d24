//! Ways in for people and programs. They know the core's words and the engine's handle; they do not know steps or equipment.

pub mod cli;
pub mod inbox;
