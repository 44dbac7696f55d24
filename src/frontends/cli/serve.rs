//! `devo serve`: the daemon, which this version does not have.

use super::{Entry, Group, plain};
use crate::error::Error;

pub const ENTRY: Entry = Entry {
    name: "serve",
    group: Group::Work,
    about: "The daemon (not in this version)",
    examples: "devo run task.yaml    # what works today: one run, driven here",
    augment: plain,
    run: |_, _| {
        Err(Error::unavailable("`devo serve` (the daemon with inbox, web and chat)")
            .hint("run a task here with `devo run`, or a submitted one with `devo resume RUN`"))
    },
};
