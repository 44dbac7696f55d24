//! Tests of the whole of git: real repositories, a real `git`, local remotes, hostile contents.

mod hostile;
mod pushes;
mod remotes;
mod servers;
mod snapshots;
mod spares;
mod stores;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::*;
use crate::core::time::Timestamp;

/// A home and a bare remote with `main` and `development`, both at a commit with a few files.
struct World {
    temp: tempfile::TempDir,
    git: Git,
    /// Whether workspaces are made from a spare of the first commit.
    spares: bool,
}

const CREDENTIALS: Credentials = Credentials {
    token: None,
    token_name: None,
    user: None,
    ssh_auth_sock: None,
    ssh_key: None,
    known_hosts: None,
    https_proxy: None,
    no_proxy: None,
};

fn patience() -> Patience<'static> {
    // Never reached by a test that passes.
    Patience::of(Duration::from_secs(300))
}

fn found_git(nowhere: &Path) -> Git {
    let path = std::env::var_os("PATH").expect("tests run with a PATH");
    Git::find(&path, nowhere).expect("git is installed")
}

impl World {
    fn new() -> Self {
        let this = Self::bare();
        this.push_files(
            "main",
            &[("README.md", "hello\n"), ("src/a.txt", "a\n"), ("src/b.txt", "b\n"), ("run.sh", "#!\n")],
        );
        this.sh("git -C remote.git branch development main && git -C remote.git symbolic-ref HEAD refs/heads/main");
        this
    }

    /// The same, where every workspace is made from a spare.
    fn with_spares() -> Self {
        Self { spares: true, ..Self::new() }
    }

    /// A remote without commits.
    fn bare() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let git = found_git(&temp.path().join("nowhere"));
        let this = Self { temp, git, spares: false };
        this.sh("git init -q --bare -b main remote.git && mkdir home");
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// Runs a script as a developer would, with an identity and no configuration.
    fn sh(&self, script: &str) -> String {
        sh(self.temp.path(), script)
    }

    /// Commits files to a branch of the remote, as a developer would.
    fn push_files(&self, branch: &str, files: &[(&str, &str)]) {
        self.sh(&format!("rm -rf dev && git clone -q remote.git dev 2>/dev/null; git -C dev checkout -q {branch} || git -C dev checkout -q -b {branch}"));
        for (name, text) in files {
            let path = self.path("dev").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        self.sh(&format!("cd dev && git add -A -f && git commit -q -m 'add files' && git push -q origin {branch}"));
    }

    fn remote(&self) -> Remote {
        Remote::parse("../remote.git", &self.path("home")).unwrap()
    }

    fn open(&self) -> Result<Store> {
        Store::open(&self.git, &self.path("home"), "shop", &self.remote(), &CREDENTIALS, None, patience())
    }

    fn run_dir(&self) -> PathBuf {
        self.path("home/runs/1")
    }

    fn worktree(&self) -> (Store, Worktree) {
        let store = self.open().unwrap();
        let base = store.resolve_base(None).unwrap().commit;
        if self.spares {
            let first = self.sh(&format!("git -C home/repos/shop.git rev-list --max-parents=0 {base}"));
            self.prepare(&store, first.trim().parse().unwrap());
        }
        let worktree = Worktree::create(&self.run_dir(), &store, base, &branch()).unwrap();
        assert!(!self.spares || !store.spare().exists(), "it was taken");
        (store, worktree)
    }

    /// Makes a spare workspace, however small it is.
    fn prepare(&self, store: &Store, commit: CommitId) {
        let made = store.prepare_spare_of(commit, self.temp.path(), (0, 0), 0, &|| false);
        assert_eq!(made.unwrap(), Prepared::Made);
    }

    fn refs(&self) -> String {
        self.sh("git -C remote.git for-each-ref --format='%(refname) %(objectname)'")
    }
}

fn sh(folder: &Path, script: &str) -> String {
    let output = Command::new("/bin/sh")
        .args(["-euc", script])
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", folder)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs([("GIT_AUTHOR_NAME", "dev"), ("GIT_AUTHOR_EMAIL", "dev@example.com")])
        .envs([("GIT_COMMITTER_NAME", "dev"), ("GIT_COMMITTER_EMAIL", "dev@example.com")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn branch() -> BranchName {
    BranchName::task("456789ab", "Validar stock").unwrap()
}

fn author() -> Author {
    Author { name: "devo".into(), email: "devo@example.com".into() }
}

/// Takes the workspace and commits it on the head.
fn commit_all(worktree: &Worktree, label: &str) -> (CommitId, TreeId) {
    let tree = worktree.snapshot(label).unwrap().tree;
    let author = author();
    let new = NewCommit {
        tree,
        parent: worktree.head().unwrap(),
        message: &format!("feat: {label}\n\nBody.\n\nRun-Id: 42\n"),
        author: &author,
        committer: &author,
        date: Timestamp(1_764_000_000_123),
    };
    (worktree.commit(&new).unwrap(), tree)
}

fn write(worktree: &Worktree, name: &str, text: &str) {
    let path = worktree.workspace().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Every file, link and empty folder below a folder, with what it holds and whether it may be run.
fn listing(folder: &Path) -> Vec<String> {
    fn visit(folder: &Path, prefix: &str, out: &mut Vec<String>) {
        use std::os::unix::fs::PermissionsExt as _;
        let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()).collect();
        entries.sort_by_key(|entry| entry.file_name());
        for entry in entries {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().unwrap();
            if kind.is_symlink() {
                out.push(format!("{name} -> {}", std::fs::read_link(entry.path()).unwrap().display()));
            } else if kind.is_dir() {
                let before = out.len();
                visit(&entry.path(), &format!("{name}/"), out);
                if out.len() == before {
                    out.push(format!("{name}/"));
                }
            } else {
                let run = if entry.metadata().unwrap().permissions().mode() & 0o100 != 0 { "*" } else { "" };
                out.push(format!("{name}{run} = {}", String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap())));
            }
        }
    }
    let mut out = Vec::new();
    visit(folder, "", &mut out);
    out
}

#[test]
fn the_whole_way_and_every_step_of_it_twice() {
    let world = World::new();
    let before = world.refs();
    let (store, _) = world.worktree();
    let (_, worktree) = world.worktree();
    assert!(!worktree.workspace().join(".git").exists());
    assert_eq!(std::fs::read_to_string(worktree.workspace().join("src/a.txt")).unwrap(), "a\n");

    write(&worktree, "src/a.txt", "a\nmore\n");
    write(&worktree, "new.txt", "new\n");
    std::fs::remove_file(worktree.workspace().join("src/b.txt")).unwrap();
    let (commit, tree) = commit_all(&worktree, "turn-1");
    let again = NewCommit {
        tree,
        parent: worktree.base(),
        message: "feat: turn-1\n\nBody.\n\nRun-Id: 42",
        author: &author(),
        committer: &author(),
        date: Timestamp(1_764_000_000_999),
    };
    assert_eq!(worktree.commit(&again).unwrap(), commit, "same words and second, same commit");
    assert_eq!(worktree.find_commit_by_trailer("Run-Id", "42").unwrap(), Some(commit));
    assert_eq!(worktree.find_commit_by_trailer("Run-Id", "4").unwrap(), None);

    let base_tree = worktree.tree_of(worktree.base()).unwrap();
    let stat = worktree.diffstat(base_tree, tree).unwrap();
    assert_eq!(stat.summary(), "+2 −1 in 3 files");
    assert_eq!(worktree.changed_paths(base_tree, tree).unwrap(), ["new.txt", "src/a.txt", "src/b.txt"]);
    let patch = worktree.diff(base_tree, tree, 1 << 20).unwrap();
    assert!(patch.text.contains("--- a/src/a.txt\n+++ b/src/a.txt\n@@ -1 +1,2 @@\n a\n+more\n"), "{}", patch.text);
    let cut = worktree.diff(base_tree, tree, 60).unwrap();
    assert!(cut.cut && cut.text.len() <= 60 && cut.text.ends_with('\n'));

    let protection = Protection::new(store.default_branch().unwrap().as_deref(), []).unwrap();
    let order = PushOrder {
        worktree: &worktree,
        remote: &world.remote(),
        branch: worktree.branch().as_str(),
        commit,
        tested: tree,
        protection: &protection,
        credentials: &CREDENTIALS,
        patience: patience(),
    };
    assert!(!push(&world.git, &order).unwrap().already);
    assert!(push(&world.git, &order).unwrap().already);
    assert_eq!(world.refs(), format!("{before}refs/heads/{} {commit}\n", branch()));
    assert_eq!(world.sh("git -C remote.git fsck --strict 2>&1"), "");

    // The same words, read by git itself.
    let shown =
        world.sh(&format!("git -C remote.git show -s --format='%an <%ae> %at %(trailers:key=Run-Id)' {commit}"));
    assert_eq!(shown.trim(), "devo <devo@example.com> 1764000000 Run-Id: 42");

    // Without the network, as after a restart.
    let store = Store::open_existing(&world.path("home"), "shop", &world.remote()).unwrap().unwrap();
    let found = Worktree::open(&world.run_dir(), &store).unwrap();
    assert_eq!((found.head().unwrap(), found.base(), found.branch()), (commit, worktree.base(), &branch()));
    assert_eq!(found.snapshot_of("turn-1").unwrap(), Some(tree));
    assert_eq!(found.snapshot_of("turn-2").unwrap(), None);

    Worktree::remove(&world.run_dir()).unwrap();
    Worktree::remove(&world.run_dir()).unwrap();
    assert!(matches!(Worktree::open(&world.run_dir(), &store), Err(Error::NoWorkspace { .. })));
}

#[test]
fn a_commit_is_refused_where_it_would_be_wrong() {
    let world = World::new();
    let (_, worktree) = world.worktree();
    let author = author();
    let base = worktree.base();
    let tree = worktree.tree_of(base).unwrap();
    let new = |tree, message: &'static str| NewCommit {
        tree,
        parent: base,
        message,
        author: &author,
        committer: &author,
        date: Timestamp(0),
    };
    assert!(matches!(worktree.commit(&new(tree, "x")), Err(Error::NothingToCommit { .. })));
    write(&worktree, "new", "1");
    let tree = worktree.snapshot("a").unwrap().tree;
    for message in ["", " \n", "a\0b"] {
        assert!(matches!(worktree.commit(&new(tree, message)), Err(Error::BadCommit { .. })), "{message:?}");
    }
    for (name, email) in [("a\nparent 0", "e"), ("a", "e>\n"), ("<a>", "e"), ("", "e")] {
        let author = Author { name: name.into(), email: email.into() };
        let bad = NewCommit { author: &author, ..new(tree, "x") };
        assert!(matches!(worktree.commit(&bad), Err(Error::BadCommit { .. })), "{name:?}");
    }
    worktree.commit(&new(tree, "one")).unwrap();
    let moved = worktree.commit(&new(tree, "two")).unwrap_err();
    assert!(matches!(moved, Error::BranchMoved { .. }) && moved.hint().unwrap().contains("--from branch"), "{moved}");
    assert!(matches!(worktree.snapshot("../x"), Err(Error::BadBranch { .. })));
}

#[test]
fn a_view_reads_without_touching_or_following() {
    let world = World::new();
    world.push_files("main", &[("src/a.txt", "a2\n")]);
    world.sh("cd dev && ln -s ../../etc/passwd src/link && git add -A && git commit -qm 'add a link' && git push -q origin main");
    let store = world.open().unwrap();
    let commit = store.branches().unwrap().into_iter().find(|(name, _)| name == "main").unwrap().1;
    let view = store.view(commit).unwrap();
    let paths: Vec<_> = view.files().unwrap().iter().map(|file| (file.path.as_str(), file.kind, file.size)).collect();
    use FileKind::{File, Link};
    assert_eq!(
        paths,
        [
            ("README.md", File, 6),
            ("run.sh", File, 3),
            ("src/a.txt", File, 3),
            ("src/b.txt", File, 2),
            ("src/link", Link, 16)
        ]
    );
    assert_eq!(view.read("src/link", 100).unwrap().bytes, b"../../etc/passwd");
    let content = view.read("README.md", 2).unwrap();
    assert_eq!((content.bytes.as_slice(), content.size), (b"he".as_slice(), 6));
    for bad in ["", "src", "/README.md", "../x", "src/../README.md", "src/link/x", "no", "a\0b", "README.md/"] {
        assert!(matches!(view.read(bad, 10), Err(Error::NoSuchPath { .. })), "{bad:?}");
    }
    let log = |path, limit| view.log(path, limit).unwrap().into_iter().map(|entry| entry.subject).collect::<Vec<_>>();
    assert_eq!(log("src/a.txt", 9), ["add files", "add files"]);
    assert_eq!(log("src", 9), ["add a link", "add files", "add files"]);
    assert_eq!(log("", 1), ["add a link"]);
    assert_eq!(log("no", 9), Vec::<String>::new());
}

#[test]
fn what_a_workspace_will_lack_is_said() {
    let world = World::new();
    let view = |world: &World| {
        let store = world.open().unwrap();
        store.view(store.resolve_base(Some("main")).unwrap().commit).unwrap().cautions().unwrap()
    };
    assert_eq!(view(&world), Vec::<String>::new());
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n";
    world.push_files(
        "main",
        &[
            (".gitattributes", "*.png filter=lfs diff=lfs merge=lfs -text\n*.txt text\n[bad filter=lfs\n"),
            ("img/a.png", pointer),
            ("img/whole.png", "not a pointer"),
            ("notes.txt", pointer),
            ("deep/.gitattributes", "/data/** filter=lfs\n"),
            ("deep/data/x/y.bin", pointer),
            ("data/z.bin", pointer),
        ],
    );
    let said = view(&world);
    assert!(said.len() == 1 && said[0].starts_with("2 files are kept with Git LFS (deep/data/x/y.bin)"), "{said:?}");
    world.sh(
        "cd dev && git update-index --add --cacheinfo 160000,$(git rev-parse HEAD),libs/sub && git commit -qm sub && \
         git push -q origin main",
    );
    let said = view(&world);
    assert!(said.len() == 2 && said[0].contains("a submodule (libs/sub): its folder stays empty"), "{said:?}");
}

#[test]
fn the_lines_that_came_are_seen_with_their_places() {
    let world = World::new();
    let (_, worktree) = world.worktree();
    let base = worktree.tree_of(worktree.base()).unwrap();
    write(&worktree, "src/a.txt", "a\nsecond\n");
    write(&worktree, ".gitattributes", "hidden.py -diff\nblob.bin binary\n");
    write(&worktree, "hidden.py", "x\nhidden\n");
    std::fs::write(worktree.workspace().join("blob.bin"), b"\0\nin a blob").unwrap();
    std::os::unix::fs::symlink("a-target", worktree.workspace().join("link")).unwrap();
    std::fs::rename(worktree.workspace().join("src/b.txt"), worktree.workspace().join("moved.txt")).unwrap();
    let tree = worktree.snapshot("x").unwrap().tree;
    let mut seen = Vec::new();
    worktree
        .additions(base, tree, &mut |path, line, bytes| {
            seen.push(format!("{path}:{line}:{}", String::from_utf8_lossy(bytes).trim_end()));
        })
        .unwrap();
    for wanted in [
        "src/a.txt:2:second",
        "hidden.py:2:hidden",
        "blob.bin:2:in a blob",
        "link:1:a-target",
        "moved.txt:0:moved.txt",
        "hidden.py:0:hidden.py",
    ] {
        assert!(seen.iter().any(|line| line == wanted), "{wanted} in {seen:?}");
    }
    assert!(!seen.iter().any(|line| line.ends_with(":a") || line.contains("moved.txt:1")), "{seen:?}");
}
