//! Spare workspaces: what is made of one is what a checkout would have made, whatever happened to the spare.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use super::*;

const WORKSPACE: &str = "home/repos/shop.spare/workspace";

/// A store whose `main` changed in every way since the commit that spares are made of; both commits.
fn changed(world: &World) -> (Store, CommitId, CommitId) {
    world.push_files("main", &[("gone/deep/x", "x\n"), ("file-then-folder", "f\n"), ("folder-then-file/in", "i\n")]);
    world.sh("cd dev && ln -s README.md link && mkdir cache && echo old > cache/old && git add -A && git commit -qm old && git push -q origin main");
    let store = world.open().unwrap();
    let before = store.resolve_base(Some("main")).unwrap().commit;
    world.sh(
        "cd dev && git rm -rq gone file-then-folder folder-then-file cache && mkdir file-then-folder && \
         echo n > file-then-folder/new && echo n > folder-then-file && echo cache/ > .gitignore && chmod +x run.sh && \
         ln -sf src/a.txt link && echo changed > src/b.txt && git add -A && git commit -qm new && git push -q origin main",
    );
    let store = Store::open(&world.git, &world.path("home"), "shop", &world.remote(), &CREDENTIALS, None, patience());
    let store = store.unwrap();
    let after = store.resolve_base(Some("main")).unwrap().commit;
    (store, before, after)
}

fn run(world: &World, store: &Store, name: &str, base: CommitId) -> Worktree {
    Worktree::create(&world.path(&format!("home/runs/{name}")), store, base, &branch()).unwrap()
}

#[track_caller]
fn same(one: &Worktree, other: &Worktree) {
    assert_eq!(listing(&one.workspace()), listing(&other.workspace()));
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode();
    for path in ["", "src", "src/a.txt", "run.sh", "README.md"] {
        assert_eq!(mode(one.workspace().join(path)), mode(other.workspace().join(path)), "{path}");
    }
    let tree = one.tree_of(one.base()).unwrap();
    assert_eq!((one.snapshot("s").unwrap().tree, other.snapshot("s").unwrap().tree), (tree, tree));
}

#[test]
fn a_workspace_from_a_spare_is_what_a_checkout_makes() {
    let world = World::new();
    let (store, before, after) = changed(&world);
    let plain = run(&world, &store, "plain", after);
    world.prepare(&store, before);
    let kept = std::fs::metadata(world.path(WORKSPACE).join("src/a.txt")).unwrap().ino();
    let from_spare = run(&world, &store, "spare", after);
    same(&plain, &from_spare);
    assert!(!from_spare.workspace().join("cache").exists(), "what the wanted tree ignores is no run's yet");
    let now = std::fs::metadata(from_spare.workspace().join("src/a.txt")).unwrap();
    assert_eq!(now.ino(), kept, "what is the same in both trees was not written again");
    assert!(!world.path("home/repos/shop.spare").exists() && !world.path("home/runs/spare/spare").exists());
    // And without a spare there is a workspace as well.
    same(&plain, &run(&world, &store, "none", after));
}

#[test]
fn whatever_happened_to_a_spare_is_made_good() {
    let world = World::new();
    let (store, before, after) = changed(&world);
    let plain = run(&world, &store, "plain", after);
    let outside = world.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("a.txt"), "precious\n").unwrap();
    let into = world.path(WORKSPACE);
    let damages: [(&str, &dyn Fn()); 8] = [
        // The same size: only the times tell.
        ("contents", &|| std::fs::write(into.join("src/a.txt"), "z\n").unwrap()),
        ("more", &|| std::fs::write(into.join("src/more"), "m").unwrap()),
        ("a link for a folder", &|| {
            std::fs::remove_dir_all(into.join("src")).unwrap();
            symlink(&outside, into.join("src")).unwrap();
        }),
        ("another name", &|| {
            let _ = std::fs::remove_file(outside.join("hard"));
            std::fs::hard_link(into.join("README.md"), outside.join("hard")).unwrap();
        }),
        ("no index", &|| std::fs::remove_file(into.with_file_name("index")).unwrap()),
        ("bad index", &|| std::fs::write(into.with_file_name("index"), "DIRC").unwrap()),
        ("an earlier start", &|| std::fs::write(into.with_file_name("start"), "earlier").unwrap()),
        ("no files", &|| std::fs::remove_dir_all(&into).unwrap()),
    ];
    for (damage, work) in damages {
        world.prepare(&store, before);
        work();
        let name = damage.replace(' ', "-");
        let made = run(&world, &store, &name, after);
        same(&plain, &made);
        assert!(!store.spare().exists() && !world.path("home/runs").join(name).join("spare").exists(), "{damage}");
    }
    assert_eq!(std::fs::read_to_string(outside.join("a.txt")).unwrap(), "precious\n");
    assert_eq!(std::fs::read_to_string(outside.join("hard")).unwrap(), "hello\n");
    std::fs::write(world.path("home/runs/another-name/workspace/README.md"), "mine").unwrap();
    assert_eq!(std::fs::read_to_string(outside.join("hard")).unwrap(), "hello\n");
}

#[test]
fn an_index_of_an_earlier_start_is_not_believed() {
    let world = World::new();
    let (store, before, _) = changed(&world);
    for (start, found) in [(None, "z\n"), (Some("earlier"), "a\n"), (Some(""), "a\n")] {
        world.prepare(&store, before);
        // As after a loss of power: other contents under times that the index knows.
        let file = world.path(WORKSPACE).join("src/a.txt");
        std::fs::write(&file, "z\n").unwrap();
        let mut index = git2::Index::open(&world.path("home/repos/shop.spare/index")).unwrap();
        let id = index.get_path(Path::new("src/a.txt"), 0).unwrap().id;
        let stat = rustix::fs::stat(&file).unwrap();
        index.add(&entries::entry(b"src/a.txt", &stat, entries::MODE_FILE, id)).unwrap();
        index.write().unwrap();
        if let Some(start) = start {
            std::fs::write(world.path("home/repos/shop.spare/start"), start).unwrap();
        }
        let made = run(&world, &store, &format!("start-{}", start.unwrap_or("same")), before);
        assert_eq!(std::fs::read_to_string(made.workspace().join("src/a.txt")).unwrap(), found, "{start:?}");
    }
}

#[test]
fn a_start_that_was_cut_short_goes_on() {
    let world = World::new();
    let (store, before, after) = changed(&world);
    let plain = run(&world, &store, "plain", after);
    // The places at which a power cut can find a run that takes a spare.
    for (at, script) in [
        ("taken", "mv repos/shop.spare runs/taken/spare"),
        ("index", "mv repos/shop.spare runs/index/spare; mv runs/index/spare/index runs/index/git/index"),
        (
            "files",
            "mv repos/shop.spare runs/files/spare; mv runs/files/spare/index runs/files/git/index; \
             mv runs/files/spare/workspace runs/files/workspace",
        ),
    ] {
        drop(run(&world, &store, at, after));
        world.prepare(&store, before);
        sh(
            &world.path("home"),
            &format!("rm -rf runs/{at}/workspace runs/{at}/git/devo-ready runs/{at}/git/index; {script}"),
        );
        same(&plain, &run(&world, &store, at, after));
    }
    Worktree::remove(&world.path("home/runs/files")).unwrap();
    assert!(!world.path("home/runs/files/spare").exists());
}

#[test]
fn a_preparation_that_was_cut_short_leaves_nothing_that_matters() {
    let world = World::new();
    let (store, before, _) = changed(&world);
    let prepare =
        |cancelled: &dyn Fn() -> bool| store.prepare_spare_of(before, world.temp.path(), (0, 0), 0, cancelled);
    let fresh = world.path("home/repos/shop.spare.new");
    // Cancelled at every point at which it asks.
    let mut cancelled = 0_u32;
    let made = loop {
        let left = std::cell::Cell::new(cancelled);
        let result = prepare(&|| left.replace(left.get().saturating_sub(1)) == 0);
        assert!(!fresh.exists());
        match result {
            Err(Error::Cancelled { .. }) => assert!(!store.spare().exists()),
            other => break other.unwrap(),
        }
        cancelled += 1;
    };
    assert!(made == Prepared::Made && cancelled > 10, "{made:?} after {cancelled}");
    assert_eq!(prepare(&|| false).unwrap(), Prepared::Ready);

    // Killed: what it left is not taken, and goes.
    std::fs::rename(store.spare(), &fresh).unwrap();
    std::fs::write(fresh.join("workspace/src/a.txt"), "half").unwrap();
    drop(run(&world, &store, "meanwhile", before));
    assert!(fresh.exists());
    assert_eq!(prepare(&|| false).unwrap(), Prepared::Made);
    assert!(!fresh.exists());
    assert_eq!(std::fs::read_to_string(world.path(WORKSPACE).join("src/a.txt")).unwrap(), "a\n");
}

#[test]
fn there_is_one_spare_and_only_where_it_pays() {
    let world = World::new();
    let (store, before, _) = changed(&world);
    let at = world.temp.path();
    let of = |least, free| store.prepare_spare_of(before, at, least, free, &|| false).unwrap();
    assert_eq!(store.prepare_spare(before, at, 0, &|| false).unwrap(), Prepared::Small);
    assert_eq!(of((9, 1 << 20), 0), Prepared::Small);
    assert_eq!(of((0, 0), u64::MAX), Prepared::NoRoom);
    assert_eq!(store.prepare_spare_of(before, Path::new("/proc"), (0, 0), 0, &|| false).unwrap(), Prepared::Apart);
    assert!(!store.spare().exists());
    // Many at once make one, and many runs at once take it once.
    let made: Vec<Prepared> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| of((0, 0), 0))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(made.iter().filter(|made| **made == Prepared::Made).count(), 1, "{made:?}");
    let runs: Vec<Worktree> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|n| {
                scope.spawn({
                    let (world, store) = (&world, &store);
                    move || run(world, store, &n.to_string(), before)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for made in &runs[1..] {
        same(&runs[0], made);
    }
    // Large by its number of files or by their size alone.
    for least in [(2, 1 << 40), (1 << 40, 4096)] {
        assert_eq!(of(least, 0), Prepared::Made);
        drop(run(&world, &store, &format!("large-{}", least.0), before));
    }
}
