//! `devo completions`: a script that makes a shell complete devo's words.

use clap::Args as _;

use super::{Cx, Entry, Group, command, parsed};
use crate::error::{Error, Exit};

pub const ENTRY: Entry = Entry {
    name: "completions",
    group: Group::Upkeep,
    about: "Print a shell's completion script",
    examples: "devo completions bash > ~/.local/share/bash-completion/completions/devo\n\
               devo completions zsh > ~/.zfunc/_devo",
    augment: Args::augment_args,
    run: |cx, matches| completions(cx, &parsed(matches)?),
};

#[derive(Debug, clap::Args)]
struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

fn completions(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "devo", &mut script);
    cx.out.write(&String::from_utf8_lossy(&script));
    Ok(Exit::Completed)
}
