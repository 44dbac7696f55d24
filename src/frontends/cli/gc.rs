//! `devo gc`: removes what runs that are over left on disk.

use clap::Args as _;
use serde_json::json;

use super::{Cx, Entry, Group, parsed};
use crate::app::{GcWish, Leftover};
use crate::error::{Error, Exit};

pub const ENTRY: Entry = Entry {
    name: "gc",
    group: Group::Upkeep,
    about: "Remove old workspaces, sandboxes, cassettes",
    examples: "devo gc --dry-run                      # what would go, and how much it is\n\
               devo gc --older-than 2d                # of runs that ended two days ago or earlier",
    augment: Args::augment_args,
    run: |cx, matches| gc(cx, &parsed(matches)?),
};

#[derive(Debug, clap::Args)]
struct Args {
    /// Only of runs that ended this long ago, like `12h` or `14d`; `0s` is all that ended
    #[arg(long, value_name = "AGE", default_value = "14d")]
    older_than: String,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
}

fn gc(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    let older_than_ms = age(&args.older_than).ok_or_else(|| {
        Error::usage(format!("`{}` is not an age", args.older_than))
            .hint("like `12h`, `14d`, or `0s` for all that ended")
    })?;
    let wish = GcWish { older_than_ms };
    let app = cx.app()?;
    let (found, swept) = cx.wait_on_all_cores(async {
        if args.dry_run {
            return Ok((app.gc_candidates(wish).await?, 0));
        }
        let lock = app.lock("devo gc")?;
        app.gc(&lock, wish).await
    })?;
    let failed = found.iter().any(|leftover| leftover.error.is_some());
    let gone = found.iter().filter(|leftover| leftover.error.is_none());
    let (count, bytes) = gone.fold((0, 0_u64), |(count, bytes), leftover| (count + 1, bytes + leftover.bytes));
    if cx.json {
        cx.out.line(&json!({"dry_run": args.dry_run, "bytes": bytes, "containers": swept, "found": found}).to_string());
    } else {
        found.iter().for_each(|leftover| cx.out.line(&told(leftover)));
        let what = if args.dry_run { "would be removed" } else { "removed" };
        if swept > 0 {
            cx.out.line(&format!("{swept} containers and networks of docker removed"));
        }
        if count > 0 {
            cx.out.line(&format!("{} {what}", shown_size(bytes)));
        } else if swept == 0 {
            cx.out.line("nothing to remove");
        }
    }
    Ok(if failed { Exit::Failed } else { Exit::Completed })
}

fn told(leftover: &Leftover) -> String {
    let run = leftover.run.as_ref().map_or(String::new(), |run| format!(" of run {run}"));
    let what = match leftover.kind {
        "workspace" => "files",
        "orphan" => "folder without a run",
        "spare" => "spare workspace",
        other => other,
    };
    let path = crate::secrets::printable(&leftover.path.display().to_string());
    let line = format!(
        "{:>10}  {what}{}  {path}",
        shown_size(leftover.bytes),
        if leftover.kind == "orphan" { "" } else { &run }
    );
    match &leftover.error {
        Some(error) => format!("{line}\n            not removed: {}", crate::secrets::printable(error)),
        None => line,
    }
}

fn shown_size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

/// Milliseconds; also 0, and longer than any duration of a pipeline.
fn age(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 4] = [("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let (number, factor) = UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes() {
        for (text, wanted) in [
            ("14d", Some(14 * 86_400_000)),
            ("0s", Some(0)),
            ("2h", Some(7_200_000)),
            ("x", None),
            ("5", None),
            ("-1d", None),
        ] {
            assert_eq!(age(text), wanted, "{text}");
        }
        assert_eq!(
            [shown_size(0), shown_size(1), shown_size(5 << 20), shown_size(3 << 30)],
            ["0 KiB", "1 KiB", "5.0 MiB", "3.0 GiB"]
        );
    }
}
