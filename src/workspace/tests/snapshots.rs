//! Workspace → tree → workspace: what is taken, what comes back, what is never touched.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use proptest::prelude::*;

use super::*;

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn files_of(worktree: &Worktree, tree: TreeId) -> Vec<String> {
    worktree.view(tree).unwrap().files().unwrap().iter().map(|file| file.path.clone()).collect()
}

#[test]
fn a_restore_brings_back_the_tree_and_leaves_the_rest() {
    let world = World::new();
    world.push_files(
        "development",
        &[(".gitignore", "*.log\n/build/\n"), ("kept.log", "tracked though ignored\n"), ("build/tracked", "t\n")],
    );
    let (_, worktree) = world.worktree();
    let at = |name: &str| worktree.workspace().join(name);
    write(&worktree, "agent.txt", "1");
    symlink("agent.txt", at("link")).unwrap();
    mode(&at("run.sh"), 0o755);
    let first = worktree.snapshot("turn-1").unwrap();
    assert_eq!((first.left_out_count, &first.left_out), (0, &vec![]));
    let before = listing(&worktree.workspace());
    let untouched = std::fs::metadata(at("src/a.txt")).unwrap();

    write(&worktree, "build/out.o", "object");
    write(&worktree, "debug.log", "noise");
    write(&worktree, "pkg/debug.log", "noise");
    write(&worktree, "pkg/new.txt", "2");
    // A cache that hides itself, as test runners make it.
    write(&worktree, ".cache/.gitignore", "*\n");
    write(&worktree, ".cache/x/y", "c");
    write(&worktree, "kept.log", "changed");
    write(&worktree, ".gitignore", "*\n");
    mode(&at("run.sh"), 0o644);
    std::fs::remove_file(at("build/tracked")).unwrap();
    std::fs::remove_file(at("link")).unwrap();
    std::fs::create_dir(at("link")).unwrap();
    std::fs::write(at("link/inside"), "x").unwrap();
    std::fs::remove_dir_all(at("agent.txt")).ok();
    std::fs::remove_file(at("agent.txt")).ok();
    symlink("/etc/passwd", at("agent.txt")).unwrap();
    std::fs::remove_file(at("README.md")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("README.md"), rustix::fs::Mode::RWXU).unwrap();

    worktree.restore(first.tree).unwrap();
    let mut expected = before.clone();
    for kept in [
        "build/out.o = object",
        "debug.log = noise",
        "pkg/debug.log = noise",
        ".cache/.gitignore = *\n",
        ".cache/x/y = c",
    ] {
        expected.push(kept.to_owned());
    }
    let (mut found, mut wanted) = (listing(&worktree.workspace()), expected);
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
    let now = std::fs::metadata(at("src/a.txt")).unwrap();
    assert_eq!(
        (now.ino(), now.ctime_nsec(), now.mtime_nsec()),
        (untouched.ino(), untouched.ctime_nsec(), untouched.mtime_nsec())
    );
    assert_eq!(worktree.snapshot("turn-2").unwrap().tree, first.tree);

    let clean = world.path("clean");
    for _ in 0..2 {
        worktree.checkout_clean(first.tree, &clean).unwrap();
        assert_eq!(listing(&clean), before);
        std::fs::write(clean.join("left"), "over").unwrap();
    }
    assert!(worktree.checkout_clean(first.tree, &at("inside")).is_err());
}

#[test]
fn bytes_are_taken_as_they_are() {
    let world = World::new();
    let (_, worktree) = world.worktree();
    write(&worktree, ".gitattributes", "* text=auto eol=crlf ident working-tree-encoding=UTF-16\n");
    for (name, bytes) in [("dos", "a\r\nb\r\n$Id$\n"), ("unix", "a\nb\n"), ("empty", "")] {
        write(&worktree, name, bytes);
    }
    let odd = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"odd\xff\n\"name");
    std::fs::write(worktree.workspace().join(odd), [0, 255]).unwrap();
    let tree = worktree.snapshot("a").unwrap().tree;
    let view = worktree.view(tree).unwrap();
    assert_eq!(view.read("dos", 99).unwrap().bytes, b"a\r\nb\r\n$Id$\n");
    assert_eq!(view.read("unix", 99).unwrap().bytes, b"a\nb\n");
    let clean = world.path("clean");
    worktree.checkout_clean(tree, &clean).unwrap();
    assert_eq!(std::fs::read(clean.join("dos")).unwrap(), b"a\r\nb\r\n$Id$\n");
    assert_eq!(std::fs::read(clean.join(odd)).unwrap(), [0, 255]);
}

#[test]
fn a_change_that_hides_behind_old_times_is_seen() {
    let world = World::new();
    let (_, worktree) = world.worktree();
    let path = worktree.workspace().join("src/a.txt");
    let first = worktree.snapshot("1").unwrap().tree;
    let times = std::fs::metadata(&path).unwrap().modified().unwrap();
    let mut trees = vec![first];
    // Same size, same inode, same modification time, at once after the snapshot.
    for text in ["b\n", "c\n", "d\n"] {
        std::fs::write(&path, text).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(times).unwrap();
        let tree = worktree.snapshot("1").unwrap().tree;
        assert!(!trees.contains(&tree), "{text}");
        trees.push(tree);
    }
    worktree.restore(first).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a\n");
}

#[test]
fn files_with_other_names_are_separated() {
    let world = World::new();
    let (_, worktree) = world.worktree();
    let at = |name: &str| worktree.workspace().join(name);
    let outside = world.path("outside");
    std::fs::write(&outside, "a\n").unwrap();
    let tree = worktree.tree_of(worktree.base()).unwrap();
    // The same text outside and inside, one file; and two files of the tree that are one.
    std::fs::remove_file(at("src/a.txt")).unwrap();
    std::fs::hard_link(&outside, at("src/a.txt")).unwrap();
    std::fs::remove_file(at("src/b.txt")).unwrap();
    std::fs::hard_link(at("README.md"), at("src/b.txt")).unwrap();
    mode(&outside, 0o755);
    worktree.restore(tree).unwrap();
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "a\n");
    assert_eq!(std::fs::metadata(&outside).unwrap().permissions().mode() & 0o777, 0o755);
    for name in ["src/a.txt", "src/b.txt", "README.md"] {
        assert_eq!(std::fs::metadata(at(name)).unwrap().nlink(), 1, "{name}");
    }
    assert_eq!(worktree.snapshot("x").unwrap().tree, tree);
}

#[test]
fn a_half_made_workspace_is_made_whole_and_another_ones_is_refused() {
    let world = World::new();
    let (store, worktree) = world.worktree();
    let whole = listing(&worktree.workspace());
    for damage in [
        "rm git/devo-ready && rm -rf workspace/src && echo x > workspace/README.md && echo y > workspace/extra",
        "rm -rf workspace",
        "rm git/devo-origin",
        "rm -rf git workspace && mkdir -p git.new/objects workspace && ln -s / git.new/x",
        "rm -rf git && echo x > git",
        "echo broken > git/index && touch git/index.lock git/HEAD.lock git/refs/heads/task/x.lock && rm git/devo-ready",
    ] {
        sh(&world.run_dir(), damage);
        let worktree = Worktree::create(&world.run_dir(), &store, worktree.base(), &branch()).unwrap();
        assert_eq!(listing(&worktree.workspace()), whole, "{damage}");
        assert_eq!(worktree.head().unwrap(), worktree.base());
        write(&worktree, "src/a.txt", damage);
        commit_all(&worktree, "works");
        worktree.restore(worktree.tree_of(worktree.base()).unwrap()).unwrap();
        sh(&world.run_dir(), &format!("echo {} > git/refs/heads/{}", worktree.base(), branch()));
    }
    // A whole one keeps the work that is in it.
    write(&worktree, "work", "1");
    Worktree::create(&world.run_dir(), &store, worktree.base(), &branch()).unwrap();
    assert!(worktree.workspace().join("work").exists());

    let other = BranchName::task("1", "other").unwrap();
    let error = Worktree::create(&world.run_dir(), &store, worktree.base(), &other).unwrap_err();
    assert!(matches!(error, Error::OtherWorkspace { .. }), "{error}");
    let nowhere: CommitId = "1".repeat(40).parse().unwrap();
    let error = Worktree::create(&world.path("home/runs/2"), &store, nowhere, &branch()).unwrap_err();
    assert!(matches!(error, Error::MissingObject { .. }), "{error}");
    assert!("abc".parse::<CommitId>().is_err());
}

#[test]
fn a_home_that_moved_still_works() {
    let world = World::new();
    let (_, worktree) = world.worktree();
    write(&worktree, "work", "1");
    let tree = worktree.snapshot("1").unwrap().tree;
    std::fs::rename(world.path("home"), world.path("moved")).unwrap();
    let store = Store::open_existing(&world.path("moved"), "shop", &world.remote()).unwrap().unwrap();
    let worktree = Worktree::open(&world.path("moved/runs/1"), &store).unwrap();
    assert_eq!(worktree.snapshot("2").unwrap().tree, tree);
}

#[test]
fn folders_without_rights_are_no_obstacle() {
    let world = World::new();
    let (_, worktree) = world.worktree();
    let tree = worktree.tree_of(worktree.base()).unwrap();
    write(&worktree, "new/sub/file", "x");
    for name in ["new/sub", "new", "src"] {
        mode(&worktree.workspace().join(name), 0o000);
    }
    worktree.restore(tree).unwrap();
    assert!(!worktree.workspace().join("new").exists());
    assert_eq!(worktree.snapshot("x").unwrap().tree, tree);
}

/// One thing that a command may do to a workspace. No link leads to itself: git then takes the files behind it for unchanged.
#[derive(Debug, Clone)]
enum Act {
    Write(&'static str, &'static str),
    Remove(&'static str),
    Folder(&'static str),
    Link(&'static str, &'static str),
    Run(&'static str, bool),
    Rename(&'static str, &'static str),
}

/// Each asks git for its opinion twice; a long run is worth it after a change here.
const CASES: u32 = 48;

const PATHS: [&str; 16] = [
    "a",
    "a/b",
    "a/b/c",
    "src/a.txt",
    "src",
    "x.log",
    "a/x.log",
    "build/o",
    "build",
    "keep.log",
    "README.md",
    "a/.gitignore",
    ".gitignore",
    "src/.gitignore",
    "build/tracked",
    "deep/er/file",
];
const TEXTS: [&str; 9] =
    ["", "1\n", "22\n", "*\n", "*.log\n!keep.log\n", "/a\n", "build/\n/src\n", "b\n!b/c\n", "!*.log\n# x\n\\!x\n"];

fn act() -> impl Strategy<Value = Act> {
    let path = || prop::sample::select(&PATHS[..]);
    prop_oneof![
        6 => (path(), prop::sample::select(&TEXTS[..])).prop_map(|(path, text)| Act::Write(path, text)),
        3 => path().prop_map(Act::Remove),
        1 => path().prop_map(Act::Folder),
        2 => (path(), prop::sample::select(&["nowhere", "../..", "/", "run.sh"][..])).prop_map(|(path, to)| Act::Link(path, to)),
        1 => (path(), any::<bool>()).prop_map(|(path, run)| Act::Run(path, run)),
        2 => (path(), path()).prop_map(|(from, to)| Act::Rename(from, to)),
    ]
}

/// Does it as a careful shell would; what the file system refuses is no act. Never through a link: these tests have no
/// sandbox.
fn perform(root: &Path, act: &Act) {
    let safe = |path: &str| {
        let mut at = root.to_owned();
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            at.push(part);
            let link = std::fs::symlink_metadata(&at).is_ok_and(|meta| meta.is_symlink());
            if link && parts.peek().is_some() {
                return None;
            }
        }
        Some(at)
    };
    let clear = |path: &Path| {
        let _ = std::fs::remove_file(path);
        let _ = std::fs::remove_dir_all(path);
        let _ = std::fs::create_dir_all(path.parent().unwrap());
    };
    match *act {
        Act::Write(path, text) => {
            let Some(path) = safe(path) else { return };
            clear(&path);
            let _ = std::fs::write(path, text);
        }
        Act::Remove(path) => {
            let Some(path) = safe(path) else { return };
            let _ = std::fs::remove_file(&path);
            let _ = std::fs::remove_dir_all(&path);
        }
        Act::Folder(path) => {
            let Some(path) = safe(path) else { return };
            clear(&path);
            let _ = std::fs::create_dir(path);
        }
        Act::Link(path, to) => {
            let Some(path) = safe(path) else { return };
            clear(&path);
            let _ = symlink(to, path);
        }
        Act::Run(path, run) => {
            let Some(path) = safe(path) else { return };
            if std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file()) {
                mode(&path, if run { 0o755 } else { 0o644 });
            }
        }
        Act::Rename(from, to) => {
            if let (Some(from), Some(to)) = (safe(from), safe(to)) {
                let _ = std::fs::rename(from, to);
            }
        }
    }
}

/// What git itself would stage, starting from the base.
fn as_git_would(worktree: &Worktree) -> String {
    let script = "export GIT_INDEX_FILE=$PWD/oracle; rm -f oracle; git --git-dir=git read-tree \"$BASE\"; \
                  git --git-dir=git -c core.bare=false --work-tree=workspace add -A .; git --git-dir=git write-tree";
    let run_dir = worktree.workspace().parent().unwrap().to_owned();
    sh(&run_dir, &script.replace("$BASE", &worktree.base().to_string())).trim().to_owned()
}

#[test]
fn snapshots_agree_with_git_and_come_back() {
    let world = World::new();
    world.push_files(
        "development",
        &[(".gitignore", "*.log\nbuild/\n"), ("keep.log", "k\n"), ("build/tracked", "t\n"), ("a/b/c", "c\n")],
    );
    let store = world.open().unwrap();
    let base = store.resolve_base(None).unwrap().commit;
    let acts = || prop::collection::vec(act(), 0..12);
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let outcome = runner.run(&(acts(), acts()), |(first, second)| {
        Worktree::remove(&world.run_dir()).unwrap();
        let worktree = Worktree::create(&world.run_dir(), &store, base, &branch()).unwrap();
        let root = worktree.workspace();
        let mut snapshots = Vec::new();
        for acts in [first, second] {
            for act in &acts {
                perform(&root, act);
            }
            let taken = worktree.snapshot("taken").unwrap();
            prop_assert_eq!(taken.tree.to_string(), as_git_would(&worktree));
            snapshots.push(taken.tree);
        }
        for tree in [snapshots[0], snapshots[1], snapshots[0]] {
            worktree.restore(tree).unwrap();
            // Each file of the tree is there as it should be, and nothing is that would be taken.
            let clean = world.path("clean");
            worktree.checkout_clean(tree, &clean).unwrap();
            let (found, wanted) = (listing(&root), listing(&clean));
            prop_assert!(wanted.iter().all(|line| found.contains(line)), "{wanted:#?} {found:#?}");
            prop_assert_eq!(files_of(&worktree, tree).len(), wanted.len());
            prop_assert_eq!(worktree.snapshot("again").unwrap().tree, tree);
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
