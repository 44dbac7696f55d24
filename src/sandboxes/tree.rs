//! The processes below this one: who they are, what they use, and their end.
//!
//! Meant for a single-threaded process that is a child sub-reaper, so that whoever loses its parent becomes its child
//! and nothing can leave the tree. Knows nothing of sandboxes.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, kill_process_group, wait};

/// One process as `/proc/PID/stat` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    dead: bool,
    threads: u64,
    resident_pages: u64,
}

/// What all processes of the tree use together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub threads: u64,
    pub memory_bytes: u64,
}

/// Collects who has died; `main`'s status is kept. Says whether a child is left.
pub(super) fn reap(main: Pid, status: &mut Option<WaitStatus>) -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, how))) if pid == main => *status = Some(how),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Kills and collects everything below this process; `gentle` is how long to wait first for those who are about to
/// die anyway. False if some outlive `patience` (a process in an uninterruptible system call cannot be killed).
pub(super) fn end(main: Pid, status: &mut Option<WaitStatus>, gentle: Duration, patience: Duration) -> bool {
    let start = Instant::now();
    let mut first = true;
    loop {
        if !reap(main, status) {
            return true;
        }
        if start.elapsed() >= gentle {
            if std::mem::take(&mut first) {
                // One call for the group that `main` leads, and no fork slips through: a fork bomb ends here, where
                // looking at its processes one by one would be too slow.
                let _ = kill_process_group(main, Signal::KILL);
                if !reap(main, status) {
                    return true;
                }
            }
            // Stopped first: what runs on could fork between the look and the kill.
            for signal in [Signal::STOP, Signal::KILL] {
                for process in descendants().iter().filter(|process| !process.dead) {
                    if let Some(pid) = Pid::from_raw(process.pid) {
                        let _ = kill_process(pid, signal);
                    }
                }
            }
        }
        if start.elapsed() >= patience {
            return !reap(main, status);
        }
        // At first the next look finds them all gone; later there is no hurry.
        std::thread::sleep((start.elapsed() / 10).clamp(Duration::from_micros(500), Duration::from_secs(1)));
    }
}

/// Processes and threads of this process's user on the whole machine, about.
pub(super) fn threads_of_user() -> u64 {
    let user = rustix::process::getuid().as_raw();
    let owned = |process: &&(u32, Process)| process.0 == user;
    processes().collect::<Vec<_>>().iter().filter(owned).map(|(_, process)| process.threads).sum()
}

/// Whether anybody but this process lives, as far as this process can see: in a container of its own, everybody.
pub(super) fn others_live() -> bool {
    let me = getpid().as_raw_nonzero().get();
    processes().any(|(_, process)| process.pid != me && !process.dead)
}

/// What the tree uses now. Memory is exact (shared pages counted by share) only where `memory_limit` seems exceeded:
/// the exact figure costs far more.
pub(super) fn usage(memory_limit: u64) -> Usage {
    let processes = descendants();
    let page = rustix::param::page_size() as u64;
    let threads = processes.iter().map(|process| process.threads).sum();
    let resident: u64 = processes.iter().map(|process| process.resident_pages * page).sum();
    let memory_bytes = match resident {
        _ if resident <= memory_limit => resident,
        _ => processes.iter().map(|process| proportional(process.pid).unwrap_or(process.resident_pages * page)).sum(),
    };
    Usage { threads, memory_bytes }
}

/// A process's own memory plus its share of what it shares, in bytes.
fn proportional(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// All processes below this one, in no order.
fn descendants() -> Vec<Process> {
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    for (_, process) in processes() {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut parents = vec![getpid().as_raw_nonzero().get()];
    while let Some(parent) = parents.pop() {
        let below = children.remove(&parent).unwrap_or_default();
        parents.extend(below.iter().map(|process| process.pid));
        found.extend(below);
    }
    found
}

/// All processes of the machine that this one can see, each with its user.
fn processes() -> impl Iterator<Item = (u32, Process)> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let is_process = entry.file_name().to_str()?.bytes().all(|byte| byte.is_ascii_digit());
        // One that died since the listing has no stat file, and is nobody's problem.
        let process = parse(&fs::read(entry.path().join("stat")).ok().filter(|_| is_process)?)?;
        Some((entry.metadata().ok()?.uid(), process))
    })
}

/// `PID (NAME) STATE PPID …`; the name may hold anything, brackets and spaces included.
fn parse(stat: &[u8]) -> Option<Process> {
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    let pid = std::str::from_utf8(&stat[..open]).ok()?.trim().parse().ok()?;
    let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        dead: matches!(*fields.first()?, "Z" | "X"),
        threads: fields.get(17)?.parse().ok()?,
        resident_pages: fields.get(21)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_cannot_hide_behind_its_name() {
        let stat = b"42 (x) S 1 (y\xff) Z 7 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 3 0 100 4096 250 999";
        let wanted = Process { pid: 42, parent: 7, dead: true, threads: 3, resident_pages: 250 };
        assert_eq!(parse(stat), Some(wanted));
        assert_eq!(parse(b"garbage"), None);
        assert_eq!(parse(b"1 (x)"), None);
    }

    #[test]
    fn this_process_reads_its_own_share_of_memory() {
        let bytes = proportional(getpid().as_raw_nonzero().get()).expect("smaps_rollup of oneself is readable");
        assert!((100_000..10_000_000_000).contains(&bytes), "{bytes}");
    }
}
