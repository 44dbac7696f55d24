//! Hostile workspaces, repositories and remotes: nothing of theirs runs, nothing outside is read, written or removed, and a
//! push goes where the configuration says.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

/// Each of them in a workspace that was checked out for the run and in one that was a spare before.
macro_rules! in_both_workspaces {
    ($($name:ident),* $(,)?) => {
        mod checked_out {
            $(#[test] fn $name() { super::$name(super::World::new()) })*
        }
        mod from_a_spare {
            $(#[test] fn $name() { super::$name(super::World::with_spares()) })*
        }
    };
}

in_both_workspaces! {
    traps_in_the_workspace_and_in_the_repository_stay_shut,
    links_that_took_the_place_of_folders_lead_nowhere,
    trees_that_no_git_would_write_are_refused_before_they_reach_the_disk,
    what_a_tree_cannot_hold_is_said_and_does_not_stop_the_rest,
    a_submodule_stays_at_its_commit,
    attributes_change_no_byte_on_the_way_in_or_out,
    no_spelling_of_git_gets_into_a_tree,
}

/// A program that leaves a trace, and every place in which git looks for a program or an address.
struct Trap {
    trace: PathBuf,
    program: PathBuf,
    elsewhere: PathBuf,
}

impl Trap {
    fn new(world: &World) -> Self {
        let trap =
            Self { trace: world.path("trace"), program: world.path("trap.sh"), elsewhere: world.path("elsewhere.git") };
        std::fs::write(&trap.program, format!("#!/bin/sh\necho \"$0 $*\" >> {}\ncat\n", trap.trace.display())).unwrap();
        std::fs::set_permissions(&trap.program, std::fs::Permissions::from_mode(0o755)).unwrap();
        world.sh("git init -q --bare elsewhere.git");
        trap
    }

    fn config(&self, remote: &Remote) -> String {
        let (trap, elsewhere) = (self.program.display(), self.elsewhere.display());
        format!(
            "[core]\n\tfsmonitor = {trap}\n\thooksPath = {folder}\n\tsshCommand = {trap}\n\tpager = {trap}\n\teditor = {trap}\n\
             \tattributesFile = {folder}/attributes\n\tgitProxy = {trap}\n\taskPass = {trap}\n\talternateRefsCommand = {trap}\n\
             [commit]\n\tgpgSign = true\n[push]\n\tgpgSign = true\n\tfollowTags = true\n[gpg]\n\tprogram = {trap}\n\
             [filter \"evil\"]\n\tclean = {trap}\n\tsmudge = {trap}\n\tprocess = {trap}\n\trequired = true\n\
             [diff]\n\texternal = {trap}\n[diff \"evil\"]\n\ttextconv = {trap}\n\tcommand = {trap}\n\
             [merge \"evil\"]\n\tdriver = {trap}\n[credential]\n\thelper = {trap}\n[uploadpack]\n\tpackObjectsHook = {trap}\n\
             [url \"{elsewhere}\"]\n\tinsteadOf = {remote}\n\tpushInsteadOf = {remote}\n[remote \"origin\"]\n\turl = {elsewhere}\n\
             \tpushurl = ext::{trap}\n\treceivepack = {trap}\n\tuploadpack = {trap}\n[protocol \"ext\"]\n\tallow = always\n\
             [include]\n\tpath = {folder}/more\n[extensions]\n\tworktreeConfig = true\n",
            folder = self.program.parent().unwrap().join("hooks").display(),
            remote = remote.shown(),
        )
    }

    /// A git dir with every hook and every setting turned against its reader.
    fn git_dir(&self, at: &Path, remote: &Remote) {
        std::fs::create_dir_all(at.join("refs/heads")).unwrap();
        std::fs::create_dir_all(at.join("objects/info")).unwrap();
        std::fs::create_dir_all(at.join("info")).unwrap();
        std::fs::write(at.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        let config = self.config(remote);
        for name in ["config", "config.worktree"] {
            std::fs::write(at.join(name), format!("{config}[core]\n\trepositoryformatversion = 1\n")).unwrap();
        }
        std::fs::write(at.join("commondir"), format!("{}\n", self.elsewhere.display())).unwrap();
        std::fs::write(at.join("gitdir"), format!("{}\n", self.elsewhere.display())).unwrap();
        std::fs::write(at.join("objects/info/alternates"), format!("{}/objects\n", self.elsewhere.display())).unwrap();
        std::fs::write(at.join("info/attributes"), "* filter=evil diff=evil merge=evil\n").unwrap();
        self.hooks(&at.join("hooks"));
    }

    fn hooks(&self, at: &Path) {
        std::fs::create_dir_all(at).unwrap();
        for name in [
            "pre-commit",
            "commit-msg",
            "prepare-commit-msg",
            "post-commit",
            "pre-push",
            "post-checkout",
            "post-merge",
            "post-rewrite",
            "reference-transaction",
            "fsmonitor-watchman",
            "post-index-change",
            "pre-auto-gc",
            "sendemail-validate",
            "push-to-checkout",
        ] {
            std::fs::copy(&self.program, at.join(name)).unwrap();
        }
    }

    /// Fills a folder with everything that git would look at.
    fn fill(&self, at: &Path, remote: &Remote) {
        std::fs::create_dir_all(at).unwrap();
        std::fs::write(at.join(".gitattributes"), "* filter=evil diff=evil merge=evil text eol=crlf ident\n").unwrap();
        std::fs::write(
            at.join(".gitmodules"),
            format!(
                "[submodule \"sub\"]\n\tpath = sub\n\turl = ext::{trap}\n\tupdate = !{trap}\n[submodule \"--upload-pack={trap}\"]\n\
                 \tpath = -x\n\turl = -u{trap}\n",
                trap = self.program.display()
            ),
        )
        .unwrap();
        std::fs::write(at.join(".gitconfig"), self.config(remote)).unwrap();
        self.hooks(&at.join("hooks"));
    }

    #[track_caller]
    fn untouched(&self) {
        let trace = std::fs::read_to_string(&self.trace).unwrap_or_default();
        assert_eq!(trace, "", "something ran");
        assert_eq!(sh(&self.elsewhere, "git for-each-ref"), "", "something was pushed elsewhere");
    }
}

fn traps_in_the_workspace_and_in_the_repository_stay_shut(world: World) {
    let trap = Trap::new(&world);
    let remote = world.remote();
    // In the repository itself.
    world.sh("rm -rf dev && git clone -q remote.git dev 2>/dev/null");
    trap.fill(&world.path("dev"), &remote);
    world.sh(
        "cd dev && git checkout -q development && git add -A && git commit -qm traps && git push -q origin development",
    );
    // In what a fetch from a local path looks at, and in the folder that git runs in.
    world.sh(&format!("git -C remote.git config uploadpack.packObjectsHook {}", trap.program.display()));
    trap.untouched();

    let (store, worktree) = world.worktree();
    let root = worktree.workspace();
    // In the workspace, as a command of the run could leave it: a git dir, one that a file leads to, nested ones, bare ones.
    trap.fill(&root, &remote);
    trap.git_dir(&root.join("inner/.git"), &remote);
    trap.git_dir(&root.join("inner/deeper/.GIT"), &remote);
    trap.git_dir(&root.join("bare.git"), &remote);
    trap.git_dir(&root.join("evil-dir"), &remote);
    std::fs::create_dir_all(root.join("linked")).unwrap();
    std::fs::write(root.join("linked/.git"), format!("gitdir: {}\n", root.join("evil-dir").display())).unwrap();
    trap.git_dir(&root, &remote);
    for way in 0..4 {
        let _ = std::fs::remove_dir_all(root.join(".git"));
        let _ = std::fs::remove_file(root.join(".git"));
        match way {
            0 => trap.git_dir(&root.join(".git"), &remote),
            1 => std::fs::write(root.join(".git"), format!("gitdir: {}\n", root.join("evil-dir").display())).unwrap(),
            2 => symlink(root.join("evil-dir"), root.join(".git")).unwrap(),
            _ => symlink(world.run_dir(), root.join(".git")).unwrap(),
        }
        write(&worktree, "work.txt", &format!("line\n{way}\n"));
        let (commit, tree) = commit_all(&worktree, &format!("turn-{way}"));
        let snapshot = worktree.snapshot("again").unwrap();
        assert_eq!(snapshot.tree, tree);
        let gits: Vec<_> = snapshot.left_out.iter().map(|left| (left.path.as_str(), left.why)).collect();
        assert_eq!(
            gits,
            [(".git", Why::Git), ("inner/.git", Why::Git), ("inner/deeper/.GIT", Why::Git), ("linked/.git", Why::Git)]
        );
        let base = worktree.tree_of(worktree.base()).unwrap();
        assert!(worktree.diff(base, tree, 1 << 20).unwrap().text.contains(&format!("+line\n+{way}\n")));
        worktree.diffstat(base, tree).unwrap();
        worktree.checkout_clean(tree, &world.path("clean")).unwrap();
        assert_eq!(std::fs::read_to_string(world.path("clean/work.txt")).unwrap(), format!("line\n{way}\n"));
        assert!(!world.path("clean/.git").exists());
        let protection = Protection::new(store.default_branch().unwrap().as_deref(), []).unwrap();
        let order = PushOrder {
            worktree: &worktree,
            remote: &remote,
            branch: worktree.branch().as_str(),
            commit,
            tested: tree,
            protection: &protection,
            credentials: &CREDENTIALS,
            patience: patience(),
        };
        push(&world.git, &order).unwrap();
        assert!(world.refs().contains(&format!("refs/heads/{} {commit}\n", branch())));
        trap.untouched();
    }
    worktree.restore(worktree.tree_of(worktree.base()).unwrap()).unwrap();
    assert!(!root.join(".git").exists() && !root.join("inner").exists());
    assert!(worktree.git_dir().join("HEAD").exists(), "the run's folder was behind a link");
    world.open().unwrap();
    trap.untouched();
}

#[test]
fn the_trap_itself_works() {
    let world = World::new();
    let trap = Trap::new(&world);
    world.sh("git clone -q remote.git naive 2>/dev/null");
    std::fs::write(
        world.path("naive/.git/config"),
        "[core]\n\tbare = false\n".to_owned() + &trap.config(&world.remote()),
    )
    .unwrap();
    let _ = std::fs::write(world.path("naive/.gitattributes"), "* filter=evil\n");
    world.sh("cd naive && git add -A 2>/dev/null || true");
    assert!(trap.trace.exists(), "a naive call runs the trap, so the other test would notice");
}

fn links_that_took_the_place_of_folders_lead_nowhere(world: World) {
    world.push_files("development", &[("a/b/c.txt", "c\n"), ("a/run.sh", "r\n")]);
    let (_, worktree) = world.worktree();
    let root = worktree.workspace();
    let tree = worktree.tree_of(worktree.base()).unwrap();
    let outside = world.path("outside");
    std::fs::create_dir_all(outside.join("b")).unwrap();
    for name in ["b/c.txt", "run.sh", "secret", "b/extra"] {
        std::fs::write(outside.join(name), "outside\n").unwrap();
    }
    let before = listing(&outside);
    for way in 0..4 {
        std::fs::remove_dir_all(root.join("a")).unwrap();
        match way {
            0 => symlink(&outside, root.join("a")).unwrap(),
            1 => {
                std::fs::create_dir(root.join("a")).unwrap();
                symlink(outside.join("b"), root.join("a/b")).unwrap();
                symlink(outside.join("run.sh"), root.join("a/run.sh")).unwrap();
            }
            2 => {
                std::fs::create_dir_all(root.join("a/b")).unwrap();
                symlink("../../../../../../outside/secret", root.join("a/b/c.txt")).unwrap();
                symlink(&outside, root.join("a/extra")).unwrap();
                symlink(&outside, root.join(".gitignore")).unwrap();
            }
            _ => {
                symlink(".", root.join("a")).unwrap();
                symlink(outside.join("new-file"), root.join("dangling")).unwrap();
                std::fs::remove_file(root.join("README.md")).unwrap();
                symlink(outside.join("new-readme"), root.join("README.md")).unwrap();
            }
        }
        let taken = worktree.snapshot("x").unwrap();
        for file in worktree.view(taken.tree).unwrap().files().unwrap() {
            let content = worktree.view(taken.tree).unwrap().read(&file.path, 100).unwrap();
            assert!(!content.bytes.starts_with(b"outside"), "{} was read through a link", file.path);
        }
        worktree.restore(tree).unwrap();
        assert_eq!(std::fs::read_to_string(root.join("a/b/c.txt")).unwrap(), "c\n");
        assert!(!root.join("a").is_symlink() && !root.join("a/b").is_symlink() && !root.join("a/run.sh").is_symlink());
        // The other way: the tree has the links, the workspace has folders in their place.
        worktree.restore(taken.tree).unwrap();
        assert_eq!(worktree.snapshot("y").unwrap().tree, taken.tree);
        worktree.restore(tree).unwrap();
        assert_eq!(listing(&outside), before, "way {way}");
    }
    // The destination of a clean checkout, or the workspace itself, exchanged for a link.
    symlink(&outside, world.path("clean")).unwrap();
    assert!(worktree.checkout_clean(tree, &world.path("clean")).is_err());
    std::fs::rename(&root, world.path("real")).unwrap();
    symlink(&outside, &root).unwrap();
    assert!(worktree.restore(tree).is_err() && worktree.snapshot("z").is_err());
    assert_eq!(listing(&outside), before);
}

/// Writes a tree as raw bytes, which no git would write.
fn raw_tree(repo: &git2::Repository, entries: &[(&str, &[u8], git2::Oid)]) -> TreeId {
    let mut bytes = Vec::new();
    for (mode, name, id) in entries {
        bytes.extend_from_slice(mode.as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(name);
        bytes.push(0);
        bytes.extend_from_slice(id.as_bytes());
    }
    TreeId(repo.odb().unwrap().write(git2::ObjectType::Tree, &bytes).unwrap())
}

fn trees_that_no_git_would_write_are_refused_before_they_reach_the_disk(world: World) {
    let (_, worktree) = world.worktree();
    let repo = worktree.repository().unwrap();
    let outside = world.path("outside");
    std::fs::create_dir(&outside).unwrap();
    let text = repo.blob(b"evil\n").unwrap();
    let target = repo.blob(outside.to_str().unwrap().as_bytes()).unwrap();
    let inner = raw_tree(&repo, &[("100644", b"config", text)]).0;
    let bad_names: [&[u8]; 12] = [
        b".git",
        b".GIT",
        b".git.",
        b".git ",
        b".git::$INDEX_ALLOCATION",
        b"git~1",
        b"GIT~1",
        b"..",
        b".",
        b"a/b",
        b"../x",
        ".g\u{200c}it".as_bytes(),
    ];
    let clean = world.path("clean");
    for name in bad_names {
        for (mode, id) in [("40000", inner), ("100644", text), ("120000", target)] {
            let top = raw_tree(&repo, &[(mode, name, id)]);
            let nested = raw_tree(&repo, &[("40000", b"sub", top.0)]);
            for tree in [top, nested] {
                for found in [worktree.checkout_clean(tree, &clean), worktree.restore(tree)] {
                    assert!(found.is_err(), "{:?} {mode}", String::from_utf8_lossy(name));
                }
            }
        }
    }
    // A link and a folder of one name: what is written to the folder must not go through the link.
    for order in [[0, 1], [1, 0]] {
        let entries: [(&str, &[u8], git2::Oid); 2] = [("120000", b"a", target), ("40000", b"a", inner)];
        let tree = raw_tree(&repo, &[entries[order[0]], entries[order[1]]]);
        let _ = worktree.checkout_clean(tree, &clean);
        let _ = worktree.restore(tree);
    }
    assert_eq!(listing(&outside), Vec::<String>::new());
    let link_with_nul = raw_tree(&repo, &[("120000", b"l", repo.blob(b"a\0b").unwrap())]);
    assert!(matches!(worktree.checkout_clean(link_with_nul, &clean), Err(Error::HostilePath { .. })));
    // Nothing of it keeps the run from going back.
    let tree = worktree.tree_of(worktree.base()).unwrap();
    worktree.restore(tree).unwrap();
    assert_eq!(worktree.snapshot("x").unwrap().tree, tree);
}

fn what_a_tree_cannot_hold_is_said_and_does_not_stop_the_rest(world: World) {
    let (_, worktree) = world.worktree();
    let root = worktree.workspace();
    let base = worktree.tree_of(worktree.base()).unwrap();
    write(&worktree, "good", "1");
    rustix::fs::mkfifoat(rustix::fs::CWD, root.join("pipe"), rustix::fs::Mode::RWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    symlink("good", root.join(".gitmodules")).unwrap();
    std::fs::create_dir(root.join("ignored")).unwrap();
    std::fs::write(root.join("ignored/.gitignore"), "x\n".repeat(300_000)).unwrap();
    sh(&root, "i=0; mkdir deep; while [ $i -lt 200 ]; do cd deep; mkdir deep; i=$((i+1)); done; echo x > file");
    let taken = worktree.snapshot("x").unwrap();
    let mut left: Vec<_> =
        taken.left_out.iter().map(|left| (left.path.rsplit('/').next().unwrap(), left.why)).collect();
    left.sort_by_key(|(path, _)| *path);
    assert_eq!(
        left,
        [
            (".gitignore", Why::IgnoreRules),
            (".gitmodules", Why::Name),
            ("pipe", Why::Special),
            ("socket", Why::Special),
            ("…", Why::TooDeep)
        ]
    );
    assert_eq!(worktree.changed_paths(base, taken.tree).unwrap(), ["good", "ignored/.gitignore"]);
    worktree.restore(base).unwrap();
    assert_eq!(worktree.snapshot("y").unwrap(), Snapshot { tree: base, left_out: vec![], left_out_count: 0 });
    assert!(!root.join("deep").exists());
}

fn a_submodule_stays_at_its_commit(world: World) {
    world.sh("rm -rf dev && git clone -q remote.git dev 2>/dev/null && cd dev && git checkout -q development && \
         git update-index --add --cacheinfo 160000,$(git rev-parse HEAD),libs/sub && git commit -qm sub && \
         git push -q origin development");
    let (_, worktree) = world.worktree();
    let base = worktree.tree_of(worktree.base()).unwrap();
    let sub = worktree.workspace().join("libs/sub");
    assert!(sub.is_dir());
    assert_eq!(worktree.snapshot("1").unwrap(), Snapshot { tree: base, left_out: vec![], left_out_count: 0 });
    std::fs::write(sub.join("file"), "x").unwrap();
    let taken = worktree.snapshot("2").unwrap();
    assert_eq!((taken.tree, taken.left_out[0].why), (base, Why::Submodule));
    std::fs::remove_dir_all(&sub).unwrap();
    let without = worktree.snapshot("3").unwrap().tree;
    assert_eq!(worktree.changed_paths(base, without).unwrap(), ["libs/sub"]);
    worktree.restore(base).unwrap();
    assert_eq!(std::fs::read_dir(&sub).unwrap().count(), 0);
    worktree.restore(without).unwrap();
    assert_eq!(worktree.snapshot("4").unwrap().tree, without);
}

fn attributes_change_no_byte_on_the_way_in_or_out(world: World) {
    // Committed by plumbing, so that the bytes in the repository are these.
    world.sh(
        "rm -rf dev && git clone -q remote.git dev 2>/dev/null && cd dev && git checkout -q development && \
         add() { git update-index --add --cacheinfo 100644,$(printf \"$2\" | git hash-object -w --no-filters --stdin),$1; } && \
         add .gitattributes '* text eol=crlf ident export-subst\\n*.u16 working-tree-encoding=UTF-16\\n*.f filter=evil\\n' && \
         add ident.txt '$Id$\\n$Format:%%H$\\n' && add lf.txt 'a\\nb\\n' && add crlf.txt 'a\\r\\nb\\r\\n' && \
         add text.u16 'plain\\n' && add x.f 'raw\\n' && add Name 'upper\\n' && add name 'lower\\n' && \
         git commit -qm odd && git push -q origin development",
    );
    let (_, worktree) = world.worktree();
    let base = worktree.tree_of(worktree.base()).unwrap();
    let read = |name: &str| std::fs::read(worktree.workspace().join(name)).unwrap();
    let blobs: [(&str, &[u8]); 7] = [
        ("ident.txt", b"$Id$\n$Format:%H$\n"),
        ("lf.txt", b"a\nb\n"),
        ("crlf.txt", b"a\r\nb\r\n"),
        ("text.u16", b"plain\n"),
        ("x.f", b"raw\n"),
        ("Name", b"upper\n"),
        ("name", b"lower\n"),
    ];
    for (name, bytes) in blobs {
        assert_eq!(read(name), bytes, "{name}");
    }
    assert_eq!(worktree.snapshot("as-it-was").unwrap().tree, base);
    write(&worktree, "crlf.txt", "a\r\nb\r\nc\r\n");
    write(&worktree, "ident.txt", "$Id: x$\n");
    let (commit, tree) = commit_all(&worktree, "odd");
    let view = worktree.view(tree).unwrap();
    assert_eq!(view.read("crlf.txt", 99).unwrap().bytes, b"a\r\nb\r\nc\r\n");
    assert_eq!(view.read("ident.txt", 99).unwrap().bytes, b"$Id: x$\n");
    assert_eq!(worktree.changed_paths(base, tree).unwrap(), ["crlf.txt", "ident.txt"]);
    worktree.restore(base).unwrap();
    assert_eq!((read("crlf.txt"), read("name")), (b"a\r\nb\r\n".to_vec(), b"lower\n".to_vec()));
    assert_ne!(commit, worktree.base());
}

fn no_spelling_of_git_gets_into_a_tree(world: World) {
    let (_, worktree) = world.worktree();
    let base = worktree.tree_of(worktree.base()).unwrap();
    let spellings = [
        ".git",
        ".GIT",
        ".gIt",
        ".git ",
        ".git.",
        ".git::$INDEX_ALLOCATION",
        "git~1",
        "GIT~1",
        ".g\u{200c}it",
        "\u{feff}.git",
    ];
    for (at, name) in spellings.iter().enumerate() {
        write(&worktree, &format!("{name}/config"), "[core]\n");
        write(&worktree, &format!("sub{at}/{name}/hooks/pre-push"), "x");
        write(&worktree, &format!("file{at}/{name}"), "gitdir: /\n");
        std::fs::create_dir(worktree.workspace().join(format!("link{at}"))).unwrap();
        symlink("/", worktree.workspace().join(format!("link{at}/{name}"))).unwrap();
    }
    let taken = worktree.snapshot("x").unwrap();
    assert_eq!(taken.tree, base);
    assert_eq!(taken.left_out_count, 4 * spellings.len());
    assert!(taken.left_out.iter().all(|left| left.why == Why::Git));
}

#[test]
fn git_sees_nothing_of_the_engines_environment() {
    // A git that writes down its environment; cargo starts tests with many variables.
    let world = World::new();
    let (bin, seen) = (world.path("bin"), world.path("seen"));
    std::fs::create_dir(&bin).unwrap();
    let real = world.git.program().display().to_string();
    std::fs::write(bin.join("git"), format!("#!/bin/sh\nenv >> {}\nexec {real} \"$@\"\n", seen.display())).unwrap();
    std::fs::set_permissions(bin.join("git"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::join_paths([bin, PathBuf::from("/usr/bin"), PathBuf::from("/bin")]).unwrap();
    let git = Git::find(&path, &world.path("nowhere")).unwrap();
    Store::open(&git, &world.path("home"), "shop", &world.remote(), &CREDENTIALS, None, patience()).unwrap();
    let seen = std::fs::read_to_string(&seen).unwrap();
    let mut names: Vec<&str> = seen.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    // PWD, OLDPWD, SHLVL and _ are the shell's.
    let allowed = ["PATH", "HOME", "XDG_CONFIG_HOME", "LANG", "LC_ALL", "SSH_ASKPASS", "PWD", "OLDPWD", "SHLVL", "_"];
    let foreign: Vec<_> = names.iter().filter(|name| !allowed.contains(name) && !name.starts_with("GIT_")).collect();
    assert!(foreign.is_empty() && !names.contains(&"GIT_DIR") && !names.contains(&"GIT_SSH"), "{foreign:?}");
}
