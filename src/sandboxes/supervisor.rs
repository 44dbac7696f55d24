//! The process that stands between the engine and a command: it starts the command, watches its limits, and when the
//! command ends, or the engine says so or is gone, it kills whatever is left.
//!
//! It is this program again, started with [`SUPERVISOR_WORD`]; its standard input is a socket to the engine, whose end
//! of file is the order to kill. It is single-threaded on purpose: what it starts inherits descriptors, limits and
//! control group without a race, and dies with this thread (`PR_SET_PDEATHSIG` follows threads, not processes). As a
//! child sub-reaper it becomes the parent of every orphan below it, so nothing leaves by `setsid` or a double fork.
//! Unknown here: why a command runs, and what its output means.

use std::fs::{self, File, Permissions};
use std::io::{self, IsTerminal as _, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, MemfdFlags, OFlags, fcntl_setfl, fstat, memfd_create, statvfs};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, WaitStatus, getpid, getrlimit, pidfd_open, set_child_subreaper, setrlimit,
    setsid,
};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::cgroup::Group;
use super::job::{self, End, Job, Origin, Place, Report};
use super::leftovers::HOME_PREFIX;
use super::{Exit, LimitHit, Limits, tree};

/// The first argument that makes this program a supervisor.
pub const SUPERVISOR_WORD: &str = "sandbox-exec";

/// How often limits are looked at that the kernel does not hold for us.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
/// How long the processes of an ended sandbox may take to follow by themselves; it is the kernel that kills them.
const FOLLOW: Duration = Duration::from_millis(20);
/// Longer than this only a process in an uninterruptible system call lives after its kill.
const PATIENCE: Duration = Duration::from_secs(8);
/// Then the machine needs a person.
const LAST_PATIENCE: Duration = Duration::from_secs(3600);
/// On the host the kernel counts a user's processes, not a command's: so many more than now are left to the user.
const PIDS_OF_OTHERS: u64 = 256;
/// Makes the kernel take a command's process, not the engine, when the machine is out of memory.
const OOM_SCORE: &str = "800";

/// The whole life of a supervisor. The caller, `main`, passes its result on as the exit code.
pub fn supervise() -> ExitCode {
    let mut control = match take_control() {
        Ok(control) => control,
        Err(_) => {
            let _ =
                writeln!(io::stderr(), "`{SUPERVISOR_WORD}` is how devo starts itself; it is no command for people");
            return ExitCode::from(2);
        }
    };
    let told = job::read::<Job>(&mut control).and_then(|job| run(&job, &mut control));
    match told {
        Ok(()) => ExitCode::SUCCESS,
        // The engine is gone, and with it whoever would read a message.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Takes the socket off standard input, and this process out of the reach of terminals.
fn take_control() -> io::Result<File> {
    let stdin = io::stdin();
    if stdin.is_terminal() || !FileType::from_raw_mode(fstat(&stdin)?.st_mode).is_socket() {
        return Err(io::Error::other("standard input is not a socket"));
    }
    // What the engine's own starter left open (a shell's, a service manager's) is not for a command: a folder among
    // them would be a way out of any sandbox.
    close_fds::set_fds_cloexec(3, &[]);
    let control = File::from(fcntl_dupfd_cloexec(&stdin, 3)?);
    dup2_stdin(File::open("/dev/null")?)?;
    // Fails only for a group leader, which then already has a session or group of its own.
    let _ = setsid();
    set_child_subreaper(Some(getpid()))?;
    Ok(control)
}

/// Runs the job and reports. What could not be killed in time is not let go: this process stays and goes on.
fn run(job: &Job, control: &mut File) -> io::Result<()> {
    let mut running = match start(job) {
        Ok(running) => running,
        Err(error) => {
            let end = End::NotStarted(error.to_string());
            return job::write(control, &Report { end, hits: Vec::new(), clean: true });
        }
    };
    let report = running.watch(job, control);
    if let Some(home) = running.home.take_if(|_| report.clean) {
        remove(home);
    }
    let told = job::write(control, &report);
    if !report.clean {
        tree::end(running.main, &mut running.status, Duration::ZERO, LAST_PATIENCE);
    }
    if let Some(home) = running.home.take() {
        remove(home);
    }
    // What is left, the control group, takes its time to go and is nobody's business: nobody waits for it.
    told
}

/// A command that was started.
struct Running {
    main: Pid,
    /// Readable once `main` is dead.
    ended: OwnedFd,
    status: Option<WaitStatus>,
    /// Where `bwrap` says how far it came.
    progress: Option<File>,
    home: Option<tempfile::TempDir>,
    group: Option<Group>,
}

fn start(job: &Job) -> io::Result<Running> {
    lower_limits(&job.limits)?;
    let home = match &job.place {
        Place::Host { home_parent, .. } => Some(
            tempfile::Builder::new()
                .prefix(&format!("{HOME_PREFIX}{}-", std::process::id()))
                .permissions(Permissions::from_mode(0o700))
                .tempdir_in(home_parent)?,
        ),
        Place::Bubblewrap { .. } => None,
    };
    let (progress, told) = io::pipe()?;
    // Open only in this function, and not closed on exec: `bwrap` reads them by number.
    let mut files = Vec::new();
    let mut command = match &job.place {
        Place::Host { dir, .. } => {
            // Without it a set-user-id program would be beyond our kill.
            rustix::thread::set_no_new_privs(true)?;
            let mut command = Command::new("/bin/sh");
            command.current_dir(dir).arg("-c").arg(&job.script);
            command.env_clear().envs(home.iter().map(|home| ("HOME", home.path().as_os_str())));
            command.envs(job.env.iter().map(|(name, value)| (name, value)));
            command
        }
        Place::Bubblewrap { program, options, files: contents, home } => {
            fcntl_setfd(&told, FdFlags::empty())?;
            let mut words = vec!["--json-status-fd".to_owned(), told.as_raw_fd().to_string()];
            for (path, origin) in contents {
                let file = match origin {
                    Origin::Text(text) => memory_file(text.as_bytes())?,
                    Origin::Host(path) => File::open(path)?,
                };
                let file = inherited(file)?;
                // Copied: a mount for each would take most of the sandbox's start.
                let copy = ["--perms", "0444", "--file", &file.as_raw_fd().to_string(), path].map(str::to_owned);
                words.extend(copy);
                files.push(file);
            }
            words.extend(options.iter().cloned());
            // Through a file, not by arguments: arguments are for every user of the machine to read.
            let home = ("HOME".to_owned(), home.clone());
            for (name, value) in std::iter::once(&home).chain(&job.env) {
                words.extend(["--setenv".to_owned(), name.clone(), value.clone()]);
            }
            let words: Vec<u8> = words.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect();
            let words = inherited(memory_file(&words)?)?;
            let mut command = Command::new(program);
            command.current_dir("/").env_clear().arg("--args").arg(words.as_raw_fd().to_string());
            // The limit on processes counts per user namespace: set within, so that the user's others do not count.
            let limit = format!("ulimit -u {0} 2>/dev/null || ulimit -p {0} 2>/dev/null", job.limits.pids);
            command.args(["--", "/bin/sh", "-c", &format!("{limit}; exec /bin/sh -c \"$1\""), "sh", &job.script]);
            files.push(words);
            command
        }
    };
    let null = File::options().write(true).open("/dev/null")?;
    let mut group = Group::create(&job.limits);
    if group.as_ref().is_some_and(|group| !group.enter()) {
        group = None;
    }
    if group.is_none() && matches!(job.place, Place::Host { .. }) {
        lower(Resource::Nproc, tree::threads_of_user() + job.limits.pids + PIDS_OF_OTHERS)?;
    }
    let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_else(|_| "0".to_owned());
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    let child = command.stdin(Stdio::null()).process_group(0).spawn();
    let _ = fs::write("/proc/self/oom_score_adj", score.trim());
    if let Some(group) = &group {
        group.leave();
    }
    let main = Pid::from_child(&child?);
    // From here on the streams are the command's alone: they end when it does.
    let let_go = || -> io::Result<OwnedFd> {
        dup2_stdout(&null)?;
        dup2_stderr(&null)?;
        Ok(pidfd_open(main, PidfdFlags::empty())?)
    };
    // What cannot be watched must not run.
    let ended = let_go().inspect_err(|_| {
        tree::end(main, &mut None, Duration::ZERO, PATIENCE);
    })?;
    let progress = matches!(job.place, Place::Bubblewrap { .. }).then(|| File::from(OwnedFd::from(progress)));
    Ok(Running { main, ended, status: None, progress, home, group })
}

impl Running {
    fn watch(&mut self, job: &Job, control: &File) -> Report {
        let mut hits = Vec::new();
        let killed = loop {
            tree::reap(self.main, &mut self.status);
            if self.status.is_some() {
                break false;
            }
            let mut events = [PollFd::new(control, PollFlags::IN), PollFd::new(&self.ended, PollFlags::IN)];
            match poll(&mut events, Some(&LOOK_EVERY)) {
                // The engine says nothing after the job: whatever it is, a byte or the end of file, means the end.
                Ok(_) if !events[0].revents().is_empty() => break true,
                Ok(0) => hits.extend(self.exceeded(job)),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => break true,
            }
            if !hits.is_empty() {
                break false;
            }
        };
        let by_itself = self.status.is_some();
        let gentle = if by_itself && self.progress.is_some() { FOLLOW } else { Duration::ZERO };
        let clean = tree::end(self.main, &mut self.status, gentle, PATIENCE);
        let end = match (killed && !by_itself, self.status) {
            (true, _) => End::Killed,
            (false, Some(status)) => self.how(status),
            (false, None) => End::Signal(9),
        };
        if matches!(end, End::Signal(SIGXFSZ)) {
            hits.push(LimitHit::FileSize);
        }
        hits.extend(self.group.iter().flat_map(Group::hits));
        Report { end, hits, clean }
    }

    /// What the command went over.
    fn exceeded(&self, job: &Job) -> Option<LimitHit> {
        let limits = &job.limits;
        if statvfs(&job.disk).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < limits.disk_free_bytes) {
            return Some(LimitHit::Disk);
        }
        if self.group.is_some() {
            return None;
        }
        match tree::usage(limits.memory_bytes) {
            usage if usage.threads > limits.pids => Some(LimitHit::Pids),
            usage if usage.memory_bytes > limits.memory_bytes => Some(LimitHit::Memory),
            _ => None,
        }
    }

    /// How the command ended, which for `bwrap` only its own words tell from a sandbox that could not be made.
    fn how(&mut self, status: WaitStatus) -> End {
        if let Some(signal) = status.terminating_signal() {
            return End::Signal(signal);
        }
        let code = match &mut self.progress {
            None => status.exit_status(),
            Some(progress) => exit_code(progress),
        };
        match code.map(Exit::from_code) {
            Some(Exit::Signal(signal)) => End::Signal(signal),
            Some(Exit::Code(code)) => End::Code(code),
            _ => End::NotSetUp,
        }
    }
}

const SIGXFSZ: i32 = 25;

/// The `exit-code` of `bwrap`'s status lines: there is one only if the command was started.
fn exit_code(progress: &mut File) -> Option<i32> {
    fcntl_setfl(&*progress, OFlags::NONBLOCK).ok()?;
    let mut text = Vec::new();
    // An error here is "would block": someone still holds the pipe, and what was written has been read.
    let _ = progress.take(1 << 16).read_to_end(&mut text);
    String::from_utf8_lossy(&text).lines().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        i32::try_from(line.get("exit-code")?.as_i64()?).ok()
    })
}

/// A file in memory, at its beginning.
fn memory_file(content: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("devo", MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

/// The next program inherits it.
fn inherited(file: File) -> io::Result<File> {
    fcntl_setfd(file.as_fd(), FdFlags::empty())?;
    Ok(file)
}

/// Limits that this process shares with the command: it opens little and writes no files.
fn lower_limits(limits: &Limits) -> io::Result<()> {
    lower(Resource::Core, 0)?;
    lower(Resource::Nofile, limits.open_files.max(64))?;
    lower(Resource::Fsize, limits.file_bytes)
}

fn lower(resource: Resource, value: u64) -> io::Result<()> {
    let value = getrlimit(resource).maximum.map_or(value, |most| most.min(value));
    Ok(setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?)
}

/// Removes a private HOME, folders that the command made inaccessible included.
fn remove(home: tempfile::TempDir) {
    let path = home.keep();
    if fs::remove_dir_all(&path).is_err() {
        open_up(&path, 0);
        let _ = fs::remove_dir_all(&path);
    }
}

/// Lets the owner into every folder. Links are not followed; nobody is left to swap one in.
fn open_up(folder: &Path, depth: usize) {
    let _ = fs::set_permissions(folder, Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if depth < 256 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path(), depth + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_that_never_started_its_command_has_no_exit_code() {
        for (text, wanted) in [
            ("{ \"child-pid\": 9, \"net-namespace\": 4 }\n{ \"exit-code\": 7 }\n", Some(7)),
            ("{ \"child-pid\": 9 }\n", None),
            ("", None),
            ("nonsense\n{\"exit-code\": \"x\"}", None),
        ] {
            let (reader, mut writer) = io::pipe().expect("a pipe");
            writer.write_all(text.as_bytes()).expect("room in the pipe");
            assert_eq!(exit_code(&mut File::from(OwnedFd::from(reader))), wanted);
        }
    }

    #[test]
    fn a_home_that_was_locked_is_removed() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let inner = home.path().join("a/b");
        fs::create_dir_all(&inner).expect("folders");
        fs::set_permissions(home.path().join("a"), Permissions::from_mode(0o000)).expect("ours");
        let path = home.path().to_owned();
        remove(home);
        assert!(!path.exists());
    }
}
