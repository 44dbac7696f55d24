//! Tells the desktop of a terminal that a run which is followed there needs somebody, or is over. It does not know runs.
//!
//! Two ways, and the terminal's bell with the second: `notify-send` where the terminal belongs to a desktop session of this
//! machine, and a sequence of the terminal's own where it is one that is known to show it. Anything else gets the bell only: a
//! sequence that a terminal does not know could end up as text.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::Cx;
use crate::core::event::Event;
use crate::core::id::RunId;
use crate::core::rings::{Ring, ring};
use crate::frontends::plain::line;
use crate::frontends::words::Lang;

/// What the program may know of our environment: where its session is, and nothing of ours.
const SESSION: &[&str] = &[
    "PATH",
    "HOME",
    "LANG",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "XAUTHORITY",
];
/// The program of the desktop's own.
const PROGRAM: &str = "notify-send";

/// How a terminal is told.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// By this program.
    Program(PathBuf),
    /// OSC 9, of iTerm2: one text.
    Osc9,
    /// OSC 777, of rxvt: title and text.
    Osc777,
    /// By a bell.
    Bell,
}

/// Tells the desktop, if there is one and devo.yaml wants it.
#[derive(Debug, Clone)]
pub struct Desktop {
    way: Option<Way>,
    lang: Lang,
}

impl Desktop {
    /// For this terminal. `wanted` is devo.yaml's word.
    pub fn new(cx: &Cx, wanted: bool) -> Self {
        let lookup = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let seen = wanted && cx.err.terminal && !cx.quiet;
        let locale = ["LC_ALL", "LC_MESSAGES", "LANG"].iter().find_map(|name| lookup(name));
        let lang = locale.as_deref().and_then(Lang::of_tag).unwrap_or_default();
        Self { way: if seen { way(&lookup) } else { None }, lang }
    }

    /// Nobody is told.
    #[cfg(test)]
    pub fn silent() -> Self {
        Self { way: None, lang: Lang::En }
    }

    /// Tells of an event, if it rings.
    pub fn hear(&self, cx_err: &super::Out, run: RunId, name: &str, event: &Event) {
        let (Some(way), Some(ring)) = (&self.way, ring(event)) else { return };
        let words = self.lang.words();
        let what = match ring {
            Ring::PlanReady => words.status_planned,
            Ring::Question => words.question,
            Ring::Failed => words.status_failed,
            Ring::Done => words.status_completed,
            Ring::Message => return,
        };
        let (title, text) = (format!("devo: {what}"), format!("{} · {}", run.short(), line(name, 120)));
        match way {
            Way::Program(program) => tell_by(program, ring, &title, &text),
            Way::Osc9 => cx_err.write(&format!("\x1b]9;{title}: {text}\x07\x07")),
            // `;` parts title and text.
            Way::Osc777 => cx_err.write(&format!("\x1b]777;notify;{};{text}\x07\x07", title.replace(';', ","))),
            Way::Bell => cx_err.write("\x07"),
        }
    }
}

/// The way to whoever sits at a terminal with this environment; `None` where nobody does.
fn way(lookup: &dyn Fn(&str) -> Option<String>) -> Option<Way> {
    if lookup("CI").is_some() || lookup("TERM").as_deref() == Some("dumb") {
        return None;
    }
    let far = lookup("SSH_CONNECTION").is_some() || lookup("SSH_TTY").is_some();
    let session = ["WAYLAND_DISPLAY", "DISPLAY", "DBUS_SESSION_BUS_ADDRESS"].iter().any(|name| lookup(name).is_some());
    if session
        && !far
        && let Some(program) = find(&lookup("PATH").unwrap_or_default())
    {
        return Some(Way::Program(program));
    }
    // A multiplexer keeps sequences to itself; it passes the bell on.
    let term = lookup("TERM").unwrap_or_default();
    if lookup("TMUX").is_some() || lookup("STY").is_some() || term.starts_with("screen") || term.starts_with("tmux") {
        return Some(Way::Bell);
    }
    let program = lookup("TERM_PROGRAM").unwrap_or_default();
    let osc9 = ["iTerm.app", "WezTerm", "ghostty"].contains(&program.as_str())
        || lookup("WT_SESSION").is_some()
        || term == "xterm-kitty"
        || term == "xterm-ghostty";
    let osc777 = term.starts_with("rxvt-unicode") || term.starts_with("foot");
    Some(if osc9 {
        Way::Osc9
    } else if osc777 {
        Way::Osc777
    } else {
        Way::Bell
    })
}

fn find(path: &str) -> Option<PathBuf> {
    let there = |folder: &str| {
        // A folder that is not absolute is the work's own, perhaps a repository's.
        let program = PathBuf::from(folder).join(PROGRAM);
        (program.is_absolute() && program.is_file()).then_some(program)
    };
    path.split(':').find_map(there)
}

fn tell_by(program: &PathBuf, ring: Ring, title: &str, text: &str) {
    let urgency = if ring == Ring::Done { "normal" } else { "critical" };
    let session = SESSION.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
    let spawned = Command::new(program)
        .args(["--app-name=devo", "--urgency", urgency, "--", title, text])
        .env_clear()
        .envs(session)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Of its own group: a terminal that closes with this command must not take it along.
        .process_group(0)
        .spawn();
    match spawned {
        // Waited for by a thread of its own: a desktop that does not answer holds nothing up.
        Ok(mut child) => drop(std::thread::spawn(move || child.wait())),
        Err(error) => tracing::debug!(%error, "the desktop cannot be told"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Option<Way> {
        way(&|name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn each_terminal_is_told_in_the_way_that_it_knows() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(PROGRAM), "").unwrap();
        let path = dir.path().to_str().unwrap();
        let program = Some(Way::Program(dir.path().join(PROGRAM)));
        assert_eq!(of(&[("TERM", "xterm"), ("DISPLAY", ":0"), ("PATH", path)]), program);
        assert_eq!(of(&[("TERM", "xterm"), ("PATH", path)]), Some(Way::Bell), "no session, no program");
        let far = [("TERM", "xterm"), ("DISPLAY", ":10"), ("PATH", path), ("SSH_CONNECTION", "a b c d")];
        assert_eq!(of(&far), Some(Way::Bell), "the desktop of another machine");
        assert_eq!(
            of(&[("TERM", "xterm"), ("DISPLAY", ":0"), ("PATH", ".:bin")]),
            Some(Way::Bell),
            "no program of a repository"
        );
        assert_eq!(of(&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "WezTerm")]), Some(Way::Osc9));
        assert_eq!(of(&[("TERM", "foot")]), Some(Way::Osc777));
        assert_eq!(of(&[("TERM", "foot"), ("TMUX", "/x,1,0")]), Some(Way::Bell));
        assert_eq!(of(&[("TERM", "xterm"), ("CI", "true"), ("DISPLAY", ":0"), ("PATH", path)]), None);
        assert_eq!(of(&[("TERM", "dumb")]), None);
    }
}
