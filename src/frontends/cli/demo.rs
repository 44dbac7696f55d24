//! `devo demo`: the whole flow on a sample repository, offline.

use super::{Entry, Group, plain};
use crate::error::Error;

pub const ENTRY: Entry = Entry {
    name: "demo",
    group: Group::Start,
    about: "Watch the whole flow on a sample, offline",
    examples: "devo demo",
    augment: plain,
    run: |_, _| Err(Error::unavailable("`devo demo`")),
};
