//! Bare clones: made, mended, brought up to date, and the base of a run.

use super::*;

#[test]
fn a_clone_follows_its_remote_and_keeps_what_runs_borrow() {
    let world = World::new();
    let (store, worktree) = world.worktree();
    assert_eq!(store.default_branch().unwrap().as_deref(), Some("main"));
    world.push_files("main", &[("x", "1")]);
    world.push_files("feature/a", &[("y", "1")]);
    // The branch that the run started from goes, and its commit with it.
    world.sh("git -C remote.git branch -D development && git -C remote.git symbolic-ref HEAD refs/heads/feature/a");
    let store = world.open().unwrap();
    let names: Vec<_> = store.branches().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["feature/a", "main"]);
    assert_eq!(store.default_branch().unwrap().as_deref(), Some("feature/a"));
    write(&worktree, "z", "1");
    commit_all(&worktree, "still-works");
    // A branch that takes the place of a folder of branches.
    world.sh("git -C remote.git branch -m feature/a feature && git -C remote.git symbolic-ref HEAD refs/heads/none");
    let store = world.open().unwrap();
    assert_eq!(store.default_branch().unwrap().as_deref().filter(|name| *name != "none"), None);
    assert!(store.branches().unwrap().iter().any(|(name, _)| name == "feature"));
}

#[test]
fn a_half_made_clone_is_made_anew() {
    let world = World::new();
    let whole = world.open().unwrap();
    let branches = whole.branches().unwrap();
    let path = whole.path().to_owned();
    for damage in [
        "rm shop.git/devo-whole",
        "rm shop.git/HEAD",
        "rm -rf shop.git && mkdir -p shop.git.new/refs shop.git",
        "rm -rf shop.git && echo x > shop.git && mkdir shop.git.new && ln -s / shop.git.new/root",
        // Left by a git that was killed.
        "touch shop.git/HEAD.lock shop.git/packed-refs.lock shop.git/refs/heads/main.lock && rm -f shop.git/refs/heads/main",
    ] {
        sh(&world.path("home/repos"), damage);
        let store = world.open().unwrap();
        assert_eq!((store.branches().unwrap(), store.path()), (branches.clone(), path.as_path()), "{damage}");
        assert!(!world.path("home/repos/shop.git.new").exists(), "{damage}");
    }
}

#[test]
fn two_at_once_make_one_clone() {
    let world = World::new();
    let stores: Vec<Store> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| world.open().unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for store in stores {
        assert_eq!(store.branches().unwrap().len(), 2);
    }
}

#[test]
fn the_lock_is_waited_for_and_can_be_given_up() {
    let world = World::new();
    std::fs::create_dir_all(world.path("home/repos")).unwrap();
    let lock = world.path("home/repos/shop.git.lock");
    let held = super::super::lock::lock_file(&lock, patience(), "x").unwrap();
    let open =
        |patience| Store::open(&world.git, &world.path("home"), "shop", &world.remote(), &CREDENTIALS, None, patience);
    assert!(matches!(open(Patience::of(Duration::ZERO)), Err(Error::Busy { .. })));
    let cancelled = Patience { cancelled: &|| true, ..patience() };
    assert!(matches!(open(cancelled), Err(Error::Cancelled { .. })));
    drop(held);
    assert!(matches!(open(cancelled), Err(Error::Cancelled { .. })));
    open(patience()).unwrap();
}

#[test]
fn what_is_wrong_with_a_remote_is_told_apart() {
    let world = World::bare();
    let error = world.open().unwrap_err();
    assert!(matches!(error, Error::Empty { .. }), "{error}");
    assert!(error.hint().is_some() && !world.path("home/repos/shop.git").exists());

    let open = |url: &str| {
        let remote = Remote::parse(url, &world.path("home")).unwrap();
        Store::open(&world.git, &world.path("home"), "other", &remote, &CREDENTIALS, None, patience()).unwrap_err()
    };
    assert!(matches!(open("../missing.git"), Error::NotFound { .. }));
    std::fs::create_dir(world.path("folder")).unwrap();
    assert!(matches!(open("../folder"), Error::NotFound { .. }));
    // Port 1 of this machine: nobody listens.
    let error = open("http://127.0.0.1:1/x.git");
    assert!(matches!(error, Error::Unreachable { .. }) && error.retryable(), "{error:?}");
    world.sh("git init -q --bare --object-format=sha256 sha256.git && git clone -q sha256.git s && cd s && git commit -q --allow-empty -m x && git push -q origin HEAD:main");
    let error = open("../sha256.git");
    assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
    for key in ["", "..", "a/b", "-x", ".x", &"a".repeat(65)] {
        let found = Store::open(&world.git, &world.path("home"), key, &world.remote(), &CREDENTIALS, None, patience());
        assert!(matches!(found, Err(Error::BadKey { .. })), "{key}");
    }
}

#[test]
fn the_base_is_the_configured_one_or_said_aloud() {
    let world = World::new();
    let store = world.open().unwrap();
    let base = store.resolve_base(None).unwrap();
    assert_eq!((base.branch.as_str(), base.said), ("development", None));
    assert_eq!(store.resolve_base(Some("main")).unwrap().branch, "main");
    for (missing, near) in [("develoment", "development"), ("Main", "main"), ("refs/heads/main", "development")] {
        let error = store.resolve_base(Some(missing)).unwrap_err();
        assert!(matches!(&error, Error::BaseMissing { near: found, .. } if found[0] == near), "{error:?}");
        assert!(error.hint().unwrap().contains(near));
    }
    world.sh("git -C remote.git branch -D development");
    let base = world.open().unwrap().resolve_base(None).unwrap();
    assert_eq!(base.branch, "main");
    assert!(base.said.unwrap().contains("default branch `main`"));
    world.sh("git -C remote.git branch -m main trunk && git -C remote.git symbolic-ref HEAD refs/heads/gone");
    assert!(matches!(world.open().unwrap().resolve_base(None), Err(Error::NoBase { .. })));
}

#[test]
fn keys_for_addresses_are_readable_and_different() {
    let key = |url| store_key(&Remote::parse(url, Path::new("/")).unwrap());
    assert!(key("git@github.com:acme/shop.git").starts_with("shop-"));
    assert_ne!(key("git@github.com:acme/shop.git"), key("git@github.com:other/shop.git"));
    assert_eq!(key("https://a:b@h/x/shop"), key("https://h/x/shop"));
}

#[test]
fn no_git_and_old_git_are_named() {
    let temp = tempfile::tempdir().unwrap();
    let find = |path: &str| Git::find(std::ffi::OsStr::new(path), &temp.path().join("nowhere"));
    assert!(matches!(find("relative:"), Err(Error::GitMissing)));
    sh(temp.path(), "printf '#!/bin/sh\\necho git version 2.20.1\\n' > git && chmod +x git");
    let error = find(temp.path().to_str().unwrap()).unwrap_err();
    assert!(matches!(&error, Error::GitOld { found, .. } if found == "2.20.1"), "{error}");
}

#[test]
fn runs_side_by_side_do_not_disturb_each_other() {
    const RUNS: usize = 6;
    let world = World::new();
    let before = world.refs();
    world.open().unwrap();
    std::thread::scope(|scope| {
        // The remote moves all the while, so that every run has something to fetch.
        scope.spawn(|| {
            for n in 0..RUNS {
                world.push_files(&format!("other-{n}"), &[("moving", &n.to_string())]);
            }
        });
        for n in 0..RUNS {
            let world = &world;
            scope.spawn(move || {
                let store = world.open().unwrap();
                let base = store.resolve_base(None).unwrap().commit;
                let branch = BranchName::task(&format!("run{n}"), "Side by side").unwrap();
                let run_dir = world.path(&format!("home/runs/{n}"));
                let worktree = Worktree::create(&run_dir, &store, base, &branch).unwrap();
                let mut last = None;
                for round in 0..3 {
                    write(&worktree, "mine.txt", &format!("{n} {round}"));
                    world.open().unwrap();
                    last = Some(commit_all(&worktree, &format!("round-{round}")));
                }
                let (commit, tested) = last.unwrap();
                let protection = Protection::new(Some("main"), []).unwrap();
                let order = PushOrder {
                    worktree: &worktree,
                    remote: &world.remote(),
                    branch: branch.as_str(),
                    commit,
                    tested,
                    protection: &protection,
                    credentials: &CREDENTIALS,
                    patience: patience(),
                };
                assert!(!push(&world.git, &order).unwrap().already);
                assert!(push(&world.git, &order).unwrap().already);
            });
        }
    });
    let refs = world.refs();
    assert_eq!(refs.lines().count(), before.lines().count() + 2 * RUNS, "{refs}");
    for n in 0..RUNS {
        let text = world.sh(&format!("git -C remote.git show task/run{n}-side-by-side:mine.txt"));
        assert_eq!(text, format!("{n} 2"));
    }
    assert_eq!(world.sh("git -C remote.git fsck --strict 2>&1 && git -C home/repos/shop.git fsck --strict 2>&1"), "");
}

#[test]
fn a_shallow_clone_plans_commits_and_pushes_as_a_whole_one() {
    let world = World::new();
    for n in 0..5 {
        world.push_files("development", &[("count", &n.to_string())]);
    }
    let open = |depth| {
        let home = world.path("home");
        Store::open(&world.git, &home, "shop", &world.remote(), &CREDENTIALS, depth, patience()).unwrap()
    };
    let log = |store: &Store, commit, path| store.view(commit).unwrap().log(path, 99).unwrap().len();
    let seen = |store: &Store, commit| log(store, commit, "");
    let store = open(Some(2));
    let base = store.resolve_base(None).unwrap().commit;
    assert_eq!((seen(&store, base), log(&store, base, "count")), (2, 1));
    let worktree = Worktree::create(&world.run_dir(), &store, base, &branch()).unwrap();
    write(&worktree, "new", "1");
    let (commit, tested) = commit_all(&worktree, "turn-1");
    // The remote moves on, further than the depth; the run stands on what is no branch's tip any more.
    for n in 5..9 {
        world.push_files("development", &[("count", &n.to_string())]);
    }
    let store = open(Some(2));
    assert_eq!(seen(&store, store.resolve_base(None).unwrap().commit), 2);
    assert_eq!(seen(&store, base), 2, "the old base can still be read");
    let protection = Protection::new(Some("main"), []).unwrap();
    let order = PushOrder {
        worktree: &worktree,
        remote: &world.remote(),
        branch: worktree.branch().as_str(),
        commit,
        tested,
        protection: &protection,
        credentials: &CREDENTIALS,
        patience: patience(),
    };
    assert!(!push(&world.git, &order).unwrap().already);
    assert_eq!(world.sh("git -C remote.git fsck --strict 2>&1; ls remote.git | grep -c shallow || true").trim(), "0");
    assert_eq!(world.sh(&format!("git -C remote.git rev-list --count {commit}")).trim(), "7");
    // Without a depth the rest comes; with one again, nothing goes.
    let store = open(None);
    let tip = store.resolve_base(None).unwrap().commit;
    assert_eq!((seen(&store, tip), seen(&open(Some(1)), tip)), (10, 10));
}
