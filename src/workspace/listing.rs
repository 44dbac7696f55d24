//! What a remote has now: its branches and its default branch. Changes nothing anywhere.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use git2::Oid;

use super::error::{Error, Result};
use super::git::{Call, Credentials, Git, Patience};
use super::meaning::clean;
use super::remote::Remote;

/// The most that this question may take, however patient the caller is: a server that says nothing is not there.
const LONGEST: Duration = Duration::from_secs(120);

/// A remote's answer.
pub(super) struct Listing {
    /// Branches without `refs/heads/`.
    pub heads: BTreeMap<String, Oid>,
    /// The branch that its HEAD names.
    pub default: Option<String>,
}

/// Asks the remote. `branch` narrows the question to one branch; the default branch is always asked for.
pub(super) fn list(
    git: &Git,
    remote: &Remote,
    branch: Option<&str>,
    credentials: &Credentials,
    patience: Patience<'_>,
) -> Result<Listing> {
    let mut args: Vec<OsString> = ["ls-remote", "--symref", "--"].map(Into::into).into();
    args.push(remote.for_git());
    args.push("HEAD".into());
    args.push(format!("refs/heads/{}", branch.unwrap_or("*")).into());
    let what = "ls-remote";
    let patience = Patience { timeout: patience.timeout.min(LONGEST), ..patience };
    let output = git.run_ok(&Call { what, git_dir: None, remote, credentials, args: &args, hold: None, patience })?;
    let garbled = || Error::Git { what, said: format!("an answer that cannot be read: {}", clean(&output.stdout)) };
    let text = str::from_utf8(&output.stdout).map_err(|_| garbled())?;
    let mut listing = Listing { heads: BTreeMap::new(), default: None };
    for line in text.lines() {
        let (left, name) = line.split_once('\t').ok_or_else(garbled)?;
        if let Some(target) = left.strip_prefix("ref: ") {
            if name == "HEAD" {
                listing.default = target.strip_prefix("refs/heads/").map(str::to_owned);
            }
            continue;
        }
        if left.len() == 64 {
            return Err(Error::Unsupported { remote: remote.shown(), what: "sha256 objects" });
        }
        // The question's pattern also matches the end of other names.
        let Some(head) = name.strip_prefix("refs/heads/") else { continue };
        if branch.is_none_or(|branch| branch == head) {
            let id = Some(left).filter(|left| left.len() == 40).and_then(|left| Oid::from_str(left).ok());
            listing.heads.insert(head.to_owned(), id.ok_or_else(garbled)?);
        }
    }
    Ok(listing)
}
