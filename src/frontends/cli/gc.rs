//! `devo gc`: removes old workspaces, which this version does not do.

use super::{Entry, Group, plain};
use crate::error::Error;

pub const ENTRY: Entry = Entry {
    name: "gc",
    group: Group::Upkeep,
    about: "Remove old workspaces (not in this version)",
    examples: "devo status    # what is over; its folder is runs/ID in the home",
    augment: plain,
    run: |_, _| {
        Err(Error::unavailable("`devo gc`")
            .hint("the folder runs/ID/ of a run that has ended may be removed by hand; the journal stays"))
    },
};
