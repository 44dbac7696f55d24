//! The process between the engine and a command: it lives as long as both do, and leaves nothing behind.
//!
//! It is this very program, started again with a hidden word. Its standard input is a pipe that the engine holds open: when
//! the engine dies, however, the pipe ends and everything that the command started is killed. As a subreaper it inherits
//! whatever daemonises, so that `setsid` and double forks do not escape. It runs before any configuration is read.

use std::collections::HashMap;
use std::io::Read as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, Signal, getpid, kill_process, set_child_subreaper, setrlimit};

/// The hidden word: `devo sandbox-exec PROGRAM ARGUMENTS…`.
pub const WORD: &str = "sandbox-exec";
/// The exit code that says that the program could not be started; its reason is on standard error.
pub const CANNOT_START: i32 = 125;
/// A single file of a command may have this many bytes; a full disk helps nobody.
const FILE_MAX: u64 = 16 << 30;

/// Runs the program and answers with the exit code for this process. `args` begins with the program.
pub fn run(args: &[std::ffi::OsString]) -> i32 {
    let Some((program, rest)) = args.split_first() else { return CANNOT_START };
    let no_core = Rlimit { current: Some(0), maximum: Some(0) };
    let files = Rlimit { current: Some(FILE_MAX), maximum: Some(FILE_MAX) };
    // A limit that is lower already stays as it is.
    let _ = setrlimit(Resource::Core, no_core);
    let _ = setrlimit(Resource::Fsize, files);
    if let Err(error) = set_child_subreaper(Some(getpid())) {
        eprintln!("cannot become a subreaper: {error}");
        return CANNOT_START;
    }
    let mut command = Command::new(program);
    command.args(rest).stdin(Stdio::null()).process_group(0);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("cannot start {}: {error}", program.to_string_lossy());
            return CANNOT_START;
        }
    };
    std::thread::spawn(|| {
        // Nothing is ever sent: this returns when the engine closes its end or dies.
        let _ = std::io::stdin().read(&mut [0]);
        kill_descendants();
        std::process::exit(137);
    });
    let code = match child.wait() {
        Ok(status) => status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(CANNOT_START),
        Err(_) => CANNOT_START,
    };
    kill_descendants();
    code
}

/// Kills until nothing that descends from this process lives: what is born during a pass dies in the next.
fn kill_descendants() {
    loop {
        let living = descendants();
        if living.is_empty() {
            return;
        }
        for pid in living {
            // It may have died by itself meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Every living process that descends from this one; zombies are dead already.
fn descendants() -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut alive: HashMap<i32, bool> = HashMap::new();
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // The name in parentheses may hold anything, also parentheses: what follows the last one counts.
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let mut fields = rest.split(' ');
        let state = fields.next().unwrap_or("");
        let Some(parent) = fields.next().and_then(|field| field.parse::<i32>().ok()) else { continue };
        alive.insert(pid, !matches!(state, "Z" | "X"));
        children.entry(parent).or_default().push(pid);
    }
    let mut found = Vec::new();
    let mut next = vec![getpid().as_raw_nonzero().get()];
    while let Some(parent) = next.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            next.push(child);
            if alive.get(&child) == Some(&true) {
                found.extend(Pid::from_raw(child));
            }
        }
    }
    found
}
