//! `devo user hash`: what stands in devo.yaml in place of a password or a token.

use std::io::Read as _;

use clap::{Args as _, Subcommand};
use serde_json::json;

use super::{Cx, Entry, Group, parsed};
use crate::error::{Error, Exit};
use crate::frontends::web::secret;

/// Shorter passwords are refused.
const PASSWORD_MIN: usize = 10;

pub const ENTRY: Entry = Entry {
    name: "user",
    group: Group::Upkeep,
    about: "Make the hash of a user's password or token",
    examples: "devo user hash --token           # a new token, and the hash for `token:`\n\
               devo user hash < word.txt        # the hash for `password:`",
    augment: Args::augment_args,
    run: |cx, matches| user(cx, &parsed(matches)?),
};

#[derive(Debug, clap::Args)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The hash of the password on standard input; with --token, a new token and its hash
    Hash {
        /// Make a token instead
        #[arg(long)]
        token: bool,
    },
}

fn user(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    let What::Hash { token } = args.what;
    if token {
        let token = secret::token()?;
        let hash = secret::token_hash(&token);
        if cx.json {
            cx.out.line(&json!({"token": token, "hash": hash}).to_string());
        } else {
            cx.note("the token is shown this once; its hash belongs into devo.yaml, under users.NAME.token");
            cx.out.line(&format!("token: {token}\nhash:  {hash}"));
        }
        return Ok(Exit::Completed);
    }
    if cx.interactive() {
        cx.note("type the password, then Enter and Ctrl-D (it is shown):");
    }
    let mut text = String::new();
    std::io::stdin()
        .take(secret::PASSWORD_MAX as u64 + 2)
        .read_to_string(&mut text)
        .map_err(|error| Error::machine("password", "cannot read the password from standard input", &error))?;
    // Lines of a terminal end; a password does not.
    let password = text.trim_end_matches(['\n', '\r']);
    if password.chars().count() < PASSWORD_MIN || password.len() > secret::PASSWORD_MAX {
        return Err(Error::refused(
            "password",
            format!("a password has {PASSWORD_MIN} letters or more, and 1024 bytes at most"),
        )
        .hint("give it on standard input"));
    }
    let hash = secret::password_hash(password)?;
    if cx.json {
        cx.out.line(&json!({"hash": hash}).to_string());
    } else {
        cx.out.line(&hash);
    }
    Ok(Exit::Completed)
}
