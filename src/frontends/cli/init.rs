//! `devo init`: makes a home.

use std::path::PathBuf;

use clap::Args as _;
use serde_json::json;

use super::{Cx, Entry, Group, parsed};
use crate::app::make_home;
use crate::error::{Error, Exit};

pub const ENTRY: Entry = Entry {
    name: "init",
    group: Group::Start,
    about: "Make a home: configuration, prompts, pipelines",
    examples: "devo init ~/devo\n\
               devo init        # where it would be looked for: --home, $DEVO_HOME, or your data folder",
    augment: Args::augment_args,
    run: |cx, matches| init(cx, &parsed(matches)?),
};

#[derive(Debug, clap::Args)]
struct Args {
    /// The folder to make; it must not hold a home yet
    dir: Option<PathBuf>,
}

fn init(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    let places = &cx.settings.places;
    let folder = args.dir.clone().or_else(|| places.explicit.clone()).or_else(|| places.data.clone());
    let folder = folder.ok_or_else(|| Error::usage("there is no folder to make a home in").hint("devo init DIR"))?;
    let made = make_home(&folder)?;
    if cx.json {
        cx.out.line(&json!({"home": made.home, "git": made.without_git.is_none()}).to_string());
    } else {
        cx.out.line(&made.home.display().to_string());
    }
    if let Some(why) = &made.without_git {
        cx.note(&format!("the home is not under git: {}", crate::secrets::printable(why)));
    }
    cx.note(&format!("next: name a repository in {}, then: devo doctor", made.home.join("devo.yaml").display()));
    Ok(Exit::Completed)
}
