//! `devo doctor`: what is missing, with the command that mends it.

use serde_json::json;

use super::screen::{Ink, pad};
use super::{Cx, Entry, Group, plain};
use crate::app::{Check, Level, checks};
use crate::error::{Error, Exit};
use crate::secrets::printable;

pub const ENTRY: Entry = Entry {
    name: "doctor",
    group: Group::Start,
    about: "Say what is missing, and what mends it",
    examples: "devo doctor\n\
               devo doctor --json | jq '.checks[] | select(.level != \"ok\")'",
    augment: plain,
    run: |cx, _| doctor(cx),
};

fn doctor(cx: &Cx) -> Result<Exit, Error> {
    let found = cx.wait(async { Ok(checks(&cx.settings).await) })?;
    let healthy = found.iter().all(|check| check.level != Level::Critical);
    if cx.json {
        cx.out.line(&json!({"ok": healthy, "checks": found}).to_string());
    } else {
        cx.out.write(&found.iter().map(|check| line(cx, check)).collect::<String>());
    }
    Ok(if healthy { Exit::Completed } else { Exit::Failed })
}

fn line(cx: &Cx, check: &Check) -> String {
    let screen = &cx.out.screen;
    let (mark, ink) = match check.level {
        Level::Ok => ("✓", Ink::Green),
        Level::Warning => ("!", Ink::Yellow),
        Level::Critical => ("✗", Ink::Red),
        Level::Skipped => ("-", Ink::Dim),
    };
    let mut text = format!("{} {}{}\n", screen.paint(ink, mark), pad(&check.id, 20), printable(&check.message));
    if let Some(fix) = &check.fix {
        text.push_str(&format!("  {}{}\n", pad("", 20), screen.paint(Ink::Bold, &printable(fix))));
    }
    text
}
