//! `devo approve`: approves the plan that was shown, and no other.

use clap::Args as _;

use super::plan::no_plan;
use super::{Cx, Entry, Group, parsed, show, shown, signal};
use crate::core::plan::PlanRecord;
use crate::core::request::Signal;
use crate::error::{Error, Exit};
use crate::frontends::doc::plan_of;

pub const ENTRY: Entry = Entry {
    name: "approve",
    group: Group::Decide,
    about: "Approve the plan that was shown last",
    examples: "devo approve 3f2a9c1e\n\
               devo approve 3f2a9c1e --hash 9d41c07e52ab --note \"mind the tests\"",
    augment: Args::augment_args,
    run: |cx, matches| approve(cx, &parsed(matches)?),
};

#[derive(Debug, clap::Args)]
struct Args {
    /// The run: its id, the beginning of it, or its short id
    run: String,
    /// The plan's hash, or at least 12 digits of it [default: the plan shown last]
    #[arg(long, value_name = "HASH")]
    hash: Option<String>,
    /// A remark that is kept
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

fn approve(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    let app = cx.app_in_spite()?;
    cx.wait(async {
        let run = app.resolve_run(&args.run).await?;
        let doc = app.document(run).await?;
        let plan = plan_of(&doc);
        let plan_hash = match (&args.hash, shown::recall(&app.run_dir(run))) {
            (Some(hash), _) => whole_hash(hash, plan.as_ref())?,
            (None, Some(shown)) => shown.hash,
            (None, None) if plan.is_none() => return Err(no_plan(cx, run, &doc)),
            (None, None) => {
                return Err(Error::refused("not_shown", "no plan of this run was shown here yet").hint(format!(
                    "look at it first: {} plan {}",
                    cx.devo,
                    run.short()
                )));
            }
        };
        let signal = Signal::Approve { plan_hash, note: args.note.clone() };
        signal::send(cx, &app, run, signal, "approved").await
    })
}

/// A hash as it was given, or the plan's own where the beginning of it was given.
fn whole_hash(given: &str, plan: Option<&PlanRecord>) -> Result<String, Error> {
    let digits = given.trim().to_ascii_lowercase();
    let digits = digits.strip_prefix("sha256:").unwrap_or(&digits);
    if digits.len() < 12 || digits.len() > 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Error::usage("a plan's hash has 64 hex digits; give at least the first 12"));
    }
    let whole = plan.map(|plan| plan.hash.as_str()).filter(|hash| show::bare(hash).starts_with(digits));
    // A hash of another revision goes on as it is: the run says what is true now.
    Ok(whole.map_or_else(|| format!("sha256:{digits}"), str::to_owned))
}
