//! The second task on a big repository: 50,000 files, about 500 MB. What the steps `plan` and `branch` do (ask the remote, make
//! the run's git dir and workspace, from a spare workspace and without one) against `git worktree add` and `git clone`, and
//! what a snapshot after one edit costs against `git status`, all in one run. The repository is made once, in cargo's folder
//! for such things. Nothing is removed before the end, which takes some 12 GB: a file system that has just been given back
//! 50,000 files can be slow to make new ones.
//! `cargo bench --bench repository` prints the ratios; nothing is asserted, machines are noisy.

use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use devo::workspace::{BranchName, Credentials, Git, Patience, Prepared, Remote, Store, Worktree};

const FILES: usize = 50_000;
const ROUNDS: usize = 5;

fn git(args: &[&str]) {
    let mut command = Command::new("git");
    command.args(args).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").stdout(Stdio::null());
    assert!(command.status().expect("git starts").success(), "git {args:?}");
}

/// Text of 2 to 18 KB that deflates about as code does.
fn text(random: &mut fastrand::Rng, words: &[String], into: &mut Vec<u8>) {
    into.clear();
    let size = random.usize(2_000..18_000);
    while into.len() < size {
        let indent = "        ".get(..4 * random.usize(0..3)).unwrap_or_default();
        into.extend_from_slice(indent.as_bytes());
        for _ in 0..random.usize(3..10) {
            into.extend_from_slice(words[random.usize(0..words.len())].as_bytes());
            into.push(b' ');
        }
        into.push(b'\n');
    }
}

/// The bare repository, made by `git fast-import`.
fn big(at: &Path) -> PathBuf {
    let repo = at.join("big.git");
    if repo.join("made-twice").exists() {
        return repo;
    }
    let _ = std::fs::remove_dir_all(&repo);
    let path = repo.to_str().expect("cargo's folder is text").to_owned();
    git(&["init", "-q", "--bare", "-b", "development", &path]);
    let mut random = fastrand::Rng::with_seed(7);
    let words: Vec<String> =
        (0..4_000).map(|_| (0..random.usize(2..12)).map(|_| random.lowercase()).collect()).collect();
    let mut import = Command::new("git")
        .args(["--git-dir", &path, "fast-import", "--quiet"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("git starts");
    let mut out = BufWriter::new(import.stdin.take().expect("it was asked for"));
    let write = |out: &mut BufWriter<_>, bytes: &[u8]| out.write_all(bytes).expect("git reads on");
    write(&mut out, b"commit refs/heads/development\ncommitter d <d@example.com> 1700000000 +0000\ndata 3\nbig\n");
    let (mut content, mut total) = (Vec::new(), 0);
    for n in 0..FILES {
        text(&mut random, &words, &mut content);
        total += content.len();
        let name =
            format!("M 100644 inline part{:02}/mod{:03}/file{n}.txt\ndata {}\n", n % 40, n % 1_000, content.len());
        write(&mut out, name.as_bytes());
        write(&mut out, &content);
        write(&mut out, b"\n");
    }
    // A second commit, with some other files.
    write(&mut out, b"reset refs/heads/before\nfrom refs/heads/development\n\n");
    write(&mut out, b"commit refs/heads/development\ncommitter d <d@example.com> 1700000001 +0000\ndata 4\nmore\n");
    for n in (0..FILES).step_by(FILES / 50) {
        text(&mut random, &words, &mut content);
        let name =
            format!("M 100644 inline part{:02}/mod{:03}/file{n}.txt\ndata {}\n", n % 40, n % 1_000, content.len());
        write(&mut out, name.as_bytes());
        write(&mut out, &content);
        write(&mut out, b"\n");
    }
    drop(out);
    assert!(import.wait().expect("git ends").success());
    eprintln!("made {FILES} files, {} MB", total / 1_000_000);
    std::fs::write(repo.join("made-twice"), "").expect("cargo's folder can be written");
    repo
}

struct Bench {
    folder: tempfile::TempDir,
    git: Git,
    remote: Remote,
    count: usize,
}

impl Bench {
    fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    fn fetch(&self) -> Store {
        let patience = Patience::of(Duration::from_secs(3600));
        Store::open(&self.git, &self.home(), "big", &self.remote, &Credentials::default(), None, patience)
            .expect("a clone")
    }

    /// What the steps `plan` and `branch` do of a run.
    fn task(&mut self) -> Worktree {
        self.count += 1;
        let store = self.fetch();
        let base = store.resolve_base(None).expect("a base").commit;
        let branch = BranchName::task("456789ab", "bench").expect("a name");
        let run = self.home().join(format!("runs/{}", self.count));
        Worktree::create(&run, &store, base, &branch).expect("a workspace")
    }

    /// Makes a spare of the commit that the next task starts from, or of the one before it.
    fn prepare(&self, moved: bool) -> Prepared {
        let store = self.fetch();
        let base = if moved { Some("before") } else { None };
        let commit = store.resolve_base(base).expect("a base").commit;
        store.prepare_spare(commit, &self.home(), 0, &|| false).expect("a spare")
    }
}

/// The median of some rounds, after which everything is on the disk, so that no way pays for another one's writing.
fn time(rounds: usize, mut work: impl FnMut() -> Duration) -> Duration {
    let mut taken: Vec<Duration> = (0..rounds)
        .map(|_| {
            rustix::fs::sync();
            work()
        })
        .collect();
    taken.sort();
    taken[rounds / 2]
}

fn took<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let done = work();
    (done, start.elapsed())
}

fn main() {
    let repo = big(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
    let path = std::env::var_os("PATH").expect("a PATH");
    let found = Git::find(&path, &folder.path().join("nowhere")).expect("git");
    let url = format!("file://{}", repo.display());
    let remote = Remote::parse(&url, Path::new("/")).expect("an address");
    let mut bench = Bench { folder, git: found, remote, count: 0 };
    std::fs::create_dir_all(bench.home()).expect("a temporary folder can be written");
    let (_, first) = took(|| bench.fetch());

    let at = |name: String| bench.folder.path().join(name).to_str().expect("temporary paths are text").to_owned();
    let clone_at = at("clone".into());
    // Over the transport, as from another machine: not by linking files.
    let clone = time(1, || took(|| git(&["clone", "-q", "--no-local", repo.to_str().expect("text"), &clone_at])).1);
    let mut count = 0;
    let trees = at("tree".into());
    let worktree = time(ROUNDS, || {
        count += 1;
        took(|| git(&["-C", &clone_at, "worktree", "add", "-q", "--detach", &format!("{trees}{count}")])).1
    });
    let mut last = None;
    let second = time(ROUNDS, || {
        let (made, taken) = took(|| bench.task());
        last = Some(made);
        taken
    });
    let (mut taken_from, mut preparing) = (Vec::new(), Vec::new());
    for moved in [false, true] {
        let from_spare = time(ROUNDS, || {
            let (prepared, took_it) = took(|| bench.prepare(moved));
            assert_eq!(prepared, Prepared::Made);
            preparing.push(took_it);
            rustix::fs::sync();
            let (made, taken) = took(|| bench.task());
            assert!(!bench.home().join("repos/big.spare").exists(), "it was taken");
            last = Some(made);
            taken
        });
        taken_from.push(from_spare);
    }
    preparing.sort();
    let prepare = preparing[preparing.len() / 2];
    let ask = time(ROUNDS, || took(|| bench.fetch()).1);
    let made = last.expect("there was a round");
    let file = made.workspace().join("part00/mod000/file0.txt");
    let mut n = 0;
    let mut snapshot = |edit: bool| {
        n += 1;
        if edit {
            std::fs::write(&file, format!("edit {n}\n")).expect("the workspace can be written");
        }
        took(|| made.snapshot("bench").expect("a snapshot")).1
    };
    let (fresh, edited) = (snapshot(true), time(ROUNDS, || snapshot(true)));
    let status = time(ROUNDS, || {
        std::fs::write(Path::new(&clone_at).join("part00/mod000/file0.txt"), "edit\n")
            .expect("the clone can be written");
        took(|| git(&["-C", &clone_at, "status", "--porcelain"])).1
    });

    let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
    println!("first clone          {first:>10.2?}");
    println!("git clone            {clone:>10.2?}");
    println!("git worktree add     {worktree:>10.2?}");
    println!("second task          {second:>10.2?}   of it asking the remote {ask:.2?}");
    println!("  against git worktree add  {:.2} (goal 1.5)", ratio(second, worktree));
    println!("  against git clone         {:.2} (goal 0.1)", ratio(second, clone));
    for (spare, of) in taken_from.iter().zip(["the same tree", "a tree with 50 other files"]) {
        println!("second task, spare   {spare:>10.2?}   of {of}");
        println!("  against git worktree add  {:.2} (goal 1.5)", ratio(*spare, worktree));
        println!("  against git clone         {:.3} (goal 0.1)", ratio(*spare, clone));
    }
    println!("preparing a spare    {prepare:>10.2?}");
    println!("first snapshot       {fresh:>10.2?}");
    println!("snapshot, one edit   {edited:>10.2?}   against git status ({status:.2?}) {:.2}", ratio(edited, status));
}
