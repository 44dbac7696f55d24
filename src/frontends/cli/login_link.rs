//! `devo login-link`: an address that signs a browser in, once.

use clap::Args as _;
use serde_json::json;

use super::{Cx, Entry, Group, parsed};
use crate::config::OWNER;
use crate::error::{Error, Exit};
use crate::frontends::web::access;

pub const ENTRY: Entry = Entry {
    name: "login-link",
    group: Group::Upkeep,
    about: "Make a link that signs a browser in, once",
    examples: "devo login-link                 # for the owner, for ten minutes\n\
               devo login-link --user ann",
    augment: Args::augment_args,
    run: |cx, matches| login_link(cx, &parsed(matches)?),
};

#[derive(Debug, clap::Args)]
struct Args {
    /// A user of devo.yaml
    #[arg(long, value_name = "NAME", default_value = OWNER)]
    user: String,
}

fn login_link(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    let app = cx.app_in_spite()?;
    cx.wait(async {
        let link = access::make_link(&app, &args.user).await?;
        if cx.json {
            cx.out.line(&json!({"user": args.user, "link": link, "valid_ms": access::LINK_MS}).to_string());
        } else {
            cx.out.line(&link);
            cx.note("it works once, for ten minutes; open it in the browser that is to be signed in");
        }
        Ok(Exit::Completed)
    })
}
