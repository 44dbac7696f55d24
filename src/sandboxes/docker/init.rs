//! The first process of a container: this program again, under the word [`INIT_WORD`].
//!
//! It starts commands for the engine, passes on what they print, and when a command ends, or the engine says so, it
//! kills whatever else lives in the container. It is attached to the engine by its standard input; when that ends the
//! engine is gone, this process exits, and the kernel kills everybody in the container with it. As the first process
//! of a PID namespace it is the parent of every orphan, and `kill(-1)` reaches everybody but itself in one call that no
//! fork slips through. It is the same user as the commands, so it is not dumpable: they can neither trace it nor open
//! its descriptors; and they get fewer system calls than it. Unknown here: images, the engine's socket, and why a command runs.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Signal, WaitStatus, getpid, kill_process_group, pidfd_open,
    set_dumpable_behavior,
};
use rustix::stdio::{dup2_stdin, dup2_stdout};

use super::super::job::{self, End, Report};
use super::super::{Exit, LimitHit, Stream, WORKSPACE, forward, seccomp, tree};
use super::payload::{PROGRAM, PROXY_FOLDER, PROXY_SOCKET};
use super::wire::{self, Command, Order};

/// The first argument that makes this program a container's first process.
pub const INIT_WORD: &str = "sandbox-init";

/// After a kill only a process in an uninterruptible system call lives longer than this.
const PATIENCE: Duration = Duration::from_secs(8);
/// How often the dead are collected while a command runs: they count as processes.
const COLLECT_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
/// How often the command is looked at where the kernel does not tell its end by a descriptor.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
/// The most willing to be killed when the container is out of memory, so that this process is the last.
const OOM_SCORE: &str = "1000";

/// Files with a line `KEY N` (N times a limit was met), as a container sees its own control group.
const COUNTS: [(&str, &str, LimitHit); 4] = [
    ("/sys/fs/cgroup/memory.events", "oom_kill", LimitHit::Memory),
    ("/sys/fs/cgroup/memory/memory.oom_control", "oom_kill", LimitHit::Memory),
    ("/sys/fs/cgroup/pids.events", "max", LimitHit::Pids),
    ("/sys/fs/cgroup/pids/pids.events", "max", LimitHit::Pids),
];

/// The whole life of the first process. The caller, `main`, passes its result on as the exit code.
pub fn init() -> ExitCode {
    // Anywhere else the orders below would mean other people's processes.
    if getpid() != Pid::INIT || !Path::new(PROGRAM).exists() {
        let _ = writeln!(io::stderr(), "`{INIT_WORD}` is how devo starts itself in a container; it is no command");
        return ExitCode::from(2);
    }
    match Init::new().and_then(|mut init| init.serve()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

struct Init {
    orders: File,
    told: File,
    /// Opened while it was still allowed, and what it said.
    oom_score: Option<(File, String)>,
}

/// A command that was started.
struct Running {
    main: Pid,
    /// Readable once `main` is dead; older kernels and seccomp filters have none.
    ended: Option<OwnedFd>,
    status: Option<WaitStatus>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
}

impl Init {
    fn new() -> io::Result<Self> {
        let score = fs::read_to_string("/proc/self/oom_score_adj").ok();
        let file = File::options().write(true).open("/proc/self/oom_score_adj").ok();
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        let orders = File::from(fcntl_dupfd_cloexec(io::stdin(), 3)?);
        let told = File::from(fcntl_dupfd_cloexec(io::stdout(), 3)?);
        dup2_stdin(File::open("/dev/null")?)?;
        dup2_stdout(File::options().write(true).open("/dev/null")?)?;
        let socket = Path::new(PROXY_FOLDER).join(PROXY_SOCKET);
        if socket.exists() {
            let listener = forward::listen()?;
            // A thread of this process: no kill of ours reaches it, and it ends with the container.
            std::thread::Builder::new().name("forward".into()).spawn(move || forward::run(&listener, &socket))?;
        }
        Ok(Self { orders, told, oom_score: file.zip(score) })
    }

    /// Follows orders until there is nobody left to give them.
    fn serve(&mut self) -> io::Result<()> {
        wire::ready(&mut self.told)?;
        loop {
            match job::read(&mut self.orders) {
                Ok(Order::Run(command)) => {
                    let report = self.run(&command)?;
                    wire::ended(&mut self.told, &report)?;
                }
                // It crossed the report of the command that it meant.
                Ok(Order::Kill) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn run(&mut self, command: &Command) -> io::Result<Report> {
        let before = counts();
        let mut running = match self.start(command) {
            Ok(running) => running,
            Err(why) => return Ok(Report { end: End::NotStarted(why), hits: Vec::new(), clean: true }),
        };
        let killed = self.watch(&mut running)?;
        let clean = end(&mut running);
        self.drain(&mut running, clean)?;
        let end = match running.status {
            _ if killed => End::Killed,
            Some(status) => how(status),
            None => End::Signal(9),
        };
        let met = |((before, after), (_, _, hit))| (after > before).then_some(hit);
        let mut hits: Vec<LimitHit> = before.into_iter().zip(counts()).zip(COUNTS).filter_map(met).collect();
        if matches!(end, End::Signal(SIGXFSZ)) {
            hits.push(LimitHit::FileSize);
        }
        Ok(Report { end, hits, clean })
    }

    fn start(&mut self, command: &Command) -> Result<Running, String> {
        let dir = fs::canonicalize(&command.dir).map_err(|error| format!("`{}`: {error}", command.dir))?;
        if !dir.starts_with(WORKSPACE) || !dir.is_dir() {
            return Err(format!("`{}` is not a folder of the workspace", command.dir));
        }
        self.score(Some(OOM_SCORE));
        let mut shell = std::process::Command::new("/bin/sh");
        shell
            .arg("-c")
            .arg(&command.script)
            .env_clear()
            .envs(command.env.iter().map(|(name, value)| (name, value)))
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let child = restricted(&mut shell);
        self.score(None);
        let mut child = child?;
        let main = Pid::from_child(&child);
        Ok(Running {
            main,
            ended: pidfd_open(main, PidfdFlags::empty()).ok(),
            status: None,
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
        })
    }

    /// What is started next has this score, or the one that this process came with.
    fn score(&mut self, score: Option<&str>) {
        if let Some((file, own)) = &mut self.oom_score {
            let _ = file.write_all(score.unwrap_or(own.trim()).as_bytes());
        }
    }

    /// Passes output on until the command ends; true if it was told to end it.
    fn watch(&mut self, running: &mut Running) -> io::Result<bool> {
        loop {
            tree::reap(running.main, &mut running.status);
            if running.status.is_some() {
                return Ok(false);
            }
            let mut events = vec![PollFd::new(&self.orders, PollFlags::IN)];
            events.extend(running.stdout.iter().map(|stream| PollFd::new(stream, PollFlags::IN)));
            events.extend(running.stderr.iter().map(|stream| PollFd::new(stream, PollFlags::IN)));
            events.extend(running.ended.iter().map(|ended| PollFd::new(ended, PollFlags::IN)));
            let patience = if running.ended.is_some() { &COLLECT_EVERY } else { &LOOK_EVERY };
            match poll(&mut events, Some(patience)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let mut ready = events.iter().map(|event| !event.revents().is_empty());
            let order = ready.next().unwrap_or_default();
            let stdout = running.stdout.is_some() && ready.next().unwrap_or_default();
            let stderr = running.stderr.is_some() && ready.next().unwrap_or_default();
            if order {
                // While a command runs there is only one thing to say; the end of the stream is an error, and ours.
                job::read::<Order>(&mut self.orders)?;
                return Ok(true);
            }
            if stdout {
                pass(&mut running.stdout, Stream::Stdout, &mut self.told)?;
            }
            if stderr {
                pass(&mut running.stderr, Stream::Stderr, &mut self.told)?;
            }
        }
    }

    /// Passes on what is left in the pipes. Nobody is left to write, so they end; if somebody is, they are let go.
    fn drain(&mut self, running: &mut Running, clean: bool) -> io::Result<()> {
        while clean && running.stdout.is_some() {
            pass(&mut running.stdout, Stream::Stdout, &mut self.told)?;
        }
        while clean && running.stderr.is_some() {
            pass(&mut running.stderr, Stream::Stderr, &mut self.told)?;
        }
        Ok(())
    }
}

/// Starts it without the system calls that no command gets. From a thread that ends with this: the restriction is the
/// thread's and that of what it starts, and this process keeps its own calls.
fn restricted(shell: &mut std::process::Command) -> Result<Child, String> {
    let start = || {
        seccomp::restrict().map_err(|error| format!("its system calls could not be restricted: {error}"))?;
        shell.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "the image has no /bin/sh".to_owned(),
            _ => format!("/bin/sh cannot be started: {error}"),
        })
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, start);
        let thread = thread.map_err(|error| format!("no thread can be started: {error}"))?;
        thread.join().map_err(|_| "the thread that starts it failed".to_owned())?
    })
}

/// Passes on one piece of a stream; takes the stream at its end.
fn pass(from: &mut Option<impl io::Read>, stream: Stream, told: &mut File) -> io::Result<()> {
    let mut buffer = [0; 64 << 10];
    let read = match from {
        Some(from) => from.read(&mut buffer).unwrap_or(0),
        None => 0,
    };
    if read == 0 {
        *from = None;
        return Ok(());
    }
    wire::output(told, stream, &buffer[..read])
}

/// Kills and collects everybody. False if somebody outlives all patience.
fn end(running: &mut Running) -> bool {
    let start = Instant::now();
    loop {
        // The group of the first process is "everybody but me": kill(-1).
        let _ = kill_process_group(Pid::INIT, Signal::KILL);
        let children = tree::reap(running.main, &mut running.status);
        if !children && !tree::others_live() {
            return true;
        }
        if start.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep((start.elapsed() / 10).clamp(Duration::from_micros(200), Duration::from_millis(100)));
    }
}

const SIGXFSZ: i32 = 25;

fn how(status: WaitStatus) -> End {
    match (status.terminating_signal(), status.exit_status().map(Exit::from_code)) {
        (Some(signal), _) | (None, Some(Exit::Signal(signal))) => End::Signal(signal),
        (None, Some(Exit::Code(code))) => End::Code(code),
        (None, _) => End::Signal(9),
    }
}

/// How often each limit was met since the container began.
fn counts() -> Vec<u64> {
    let count = |(file, key, _): &(&str, &str, LimitHit)| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let number = text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
        number.unwrap_or(0)
    };
    COUNTS.iter().map(count).collect()
}
