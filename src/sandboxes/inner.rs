//! The last wall around a command in `bubblewrap`: this program again, inside, which closes what is left and becomes it.
//!
//! What the namespaces leave open is the kernel itself and whatever a mistake would bind: [`super::seccomp`] takes the
//! calls away that a test suite never makes, [`super::landlock`] every write outside of the writable folders. It reads
//! nothing but its arguments, starts nothing but the command, and if anything fails the command does not start. It says
//! how far it came on the pipe of `bwrap`'s own status. Unknown here: why the command runs, what the mounts are.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use rustix::process::Resource;
use rustix::stdio::dup2_stdin;

use super::supervisor::lower;
use super::{forward, handover, landlock, seccomp};

/// The first argument that makes this program the inner wall.
pub const INNER_WORD: &str = "sandbox-enter";

/// What the supervisor asks for, by arguments.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The descriptor to tell how far it came.
    pub told: i32,
    /// [`super::Limits::pids`]
    pub pids: u64,
    /// Whether standard input is a socket that waits for the proxy's port.
    pub proxied: bool,
    /// Text for `sh -c`.
    pub script: OsString,
}

impl Entry {
    /// The arguments after the program.
    pub fn words(&self) -> [OsString; 5] {
        let proxied = if self.proxied { "proxied" } else { "alone" };
        [
            INNER_WORD.into(),
            self.told.to_string().into(),
            self.pids.to_string().into(),
            proxied.into(),
            self.script.clone(),
        ]
    }

    fn read(words: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let mut words = words.into_iter();
        let (Some(word), Some(told), Some(pids), Some(proxied), Some(script), None) =
            (words.next(), words.next(), words.next(), words.next(), words.next(), words.next())
        else {
            return None;
        };
        let proxied = match proxied.to_str()? {
            "proxied" => true,
            "alone" => false,
            _ => return None,
        };
        let (told, pids) = (told.to_str()?.parse().ok()?, pids.to_str()?.parse().ok()?);
        (word == INNER_WORD).then_some(Self { told, pids, proxied, script })
    }
}

/// Closes what is left and becomes the command; comes back only if that cannot be done. The caller is `main`.
pub fn enter() -> ExitCode {
    // By its path, not by its number: what is opened here closes by itself when the command takes over.
    let told = Entry::read(std::env::args_os().skip(1)).and_then(|entry| {
        let told = File::options().write(true).open(format!("/proc/self/fd/{}", entry.told)).ok()?;
        Some((entry, told))
    });
    let Some((entry, mut told)) = told else {
        let _ = writeln!(io::stderr(), "`{INNER_WORD}` is how devo starts itself; it is no command for people");
        return ExitCode::from(2);
    };
    let Err(refused) = become_command(&entry, &mut told);
    // If nobody hears it, that it never entered says enough.
    let _ = told.write_all(format!("{}\n", serde_json::json!({ "refused": refused })).as_bytes());
    ExitCode::FAILURE
}

fn become_command(entry: &Entry, told: &mut File) -> Result<Infallible, String> {
    if entry.proxied {
        offer_proxy().map_err(|error| format!("the way to the proxy of its allow-list could not be made: {error}"))?;
    }
    // Counted per user namespace, and this one is the sandbox's own: the user's other processes do not count.
    let limits = lower(Resource::Nproc, entry.pids).and_then(|()| lower(Resource::Core, 0));
    limits.map_err(|error| format!("its limits could not be set: {error}"))?;
    landlock::restrict().map_err(|error| format!("Landlock could not be set up: {error}"))?;
    seccomp::restrict().map_err(|error| format!("its system calls could not be restricted: {error}"))?;
    told.write_all(b"{\"entered\":true}\n").map_err(|error| format!("its supervisor is gone: {error}"))?;
    let error = Command::new("/bin/sh").arg("-c").arg(&entry.script).exec();
    Err(format!("/bin/sh could not be started: {error}"))
}

/// Opens the proxy's port on this sandbox's loopback and hands it to the engine, which answers on it from outside: no
/// process of ours stays within reach of the command.
fn offer_proxy() -> io::Result<()> {
    handover::give(&io::stdin(), &forward::listen()?)?;
    Ok(dup2_stdin(File::open("/dev/null")?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_it_was_said_and_nothing_else_is() {
        let entry = Entry { told: 7, pids: 512, proxied: true, script: "echo 'a b'; exit".into() };
        assert_eq!(Entry::read(entry.words()), Some(entry));
        for wrong in ["", "sandbox-enter", "sandbox-enter 7 512 alone", "sandbox-enter x 512 alone true", "run a b c d"]
        {
            assert_eq!(Entry::read(wrong.split(' ').map(OsString::from)), None, "{wrong}");
        }
        let more = "sandbox-enter 7 512 alone true more";
        assert_eq!(Entry::read(more.split(' ').map(OsString::from)), None);
    }
}
