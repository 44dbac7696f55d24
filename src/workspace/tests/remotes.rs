//! Remotes that want credentials, over a real http and a real ssh server, and remotes that misbehave.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::Ordering;

use super::servers::{GitHttp, Sshd, always, silent};
use super::*;

/// A run with a commit, of a repository that is opened with these credentials.
fn run_of(
    world: &World,
    git: &Git,
    remote: &Remote,
    credentials: &Credentials,
) -> Result<(Worktree, CommitId, TreeId)> {
    let store = Store::open(git, &world.path("home"), "far", remote, credentials, None, patience())?;
    let base = store.resolve_base(None)?.commit;
    let worktree = Worktree::create(&world.run_dir(), &store, base, &branch())?;
    write(&worktree, "new", "1");
    let (commit, tree) = commit_all(&worktree, "turn-1");
    Ok((worktree, commit, tree))
}

fn push_to(
    git: &Git,
    remote: &Remote,
    run: &(Worktree, CommitId, TreeId),
    credentials: &Credentials,
) -> Result<Pushed> {
    let protection = Protection::new(Some("main"), [])?;
    let (worktree, commit, tested) = (&run.0, run.1, run.2);
    let branch = worktree.branch().as_str();
    let order = PushOrder {
        worktree,
        remote,
        branch,
        commit,
        tested,
        protection: &protection,
        credentials,
        patience: patience(),
    };
    push(git, &order)
}

/// Every file below a folder that holds the text.
fn holders(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holders(&path, text));
        } else if String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).contains(text) {
            found.push(path);
        }
    }
    found
}

#[test]
fn https_takes_a_token_and_says_what_is_wrong_with_another() {
    let world = World::new();
    // A git that writes down what it is called with.
    let (bin, calls) = (world.path("bin"), world.path("calls"));
    std::fs::create_dir(&bin).unwrap();
    let real = world.git.program().display().to_string();
    std::fs::write(bin.join("git"), format!("#!/bin/sh\necho \"$@\" >> {}\nexec {real} \"$@\"\n", calls.display()))
        .unwrap();
    std::fs::set_permissions(bin.join("git"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::join_paths([bin, PathBuf::from("/usr/bin"), PathBuf::from("/bin")]).unwrap();
    let git = Git::find(&path, &world.path("nowhere")).unwrap();

    let server = GitHttp::start(world.temp.path());
    let remote = server.remote("remote.git");
    server.readers.lock().unwrap().push("x-access-token:tok-reader".into());
    let with = |token: &str| Credentials {
        token: Some(token.to_owned().into()),
        token_name: Some("SHOP_TOKEN".into()),
        ..CREDENTIALS
    };
    let none = run_of(&world, &git, &remote, &CREDENTIALS).unwrap_err();
    assert!(matches!(none, Error::Auth { .. }) && none.hint().unwrap().contains("{token: GIT_TOKEN}"), "{none:?}");
    let wrong = run_of(&world, &git, &remote, &with("tok-wrong")).unwrap_err();
    assert!(
        matches!(wrong, Error::Auth { .. }) && wrong.hint().unwrap().contains("the token in SHOP_TOKEN"),
        "{wrong:?}"
    );

    let run = run_of(&world, &git, &remote, &with("tok-reader")).unwrap();
    let before = world.refs();
    let refused = push_to(&git, &remote, &run, &with("tok-reader")).unwrap_err();
    assert!(matches!(refused, Error::Auth { .. }) && !refused.retryable(), "{refused:?}");
    assert!(refused.hint().unwrap().contains("right to read and push"), "{refused:?}");
    assert_eq!(world.refs(), before);
    // With another one the same work goes out, once.
    let ana = Credentials { user: Some("ana".into()), ..with("tok-writer") };
    server.writers.lock().unwrap().push("ana:tok-writer".into());
    assert!(!push_to(&git, &remote, &run, &ana).unwrap().already);
    assert!(push_to(&git, &remote, &run, &ana).unwrap().already);
    assert_eq!(world.refs(), format!("{before}refs/heads/{} {}\n", branch(), run.1));

    for secret in ["tok-reader", "tok-writer", "tok-wrong"] {
        assert_eq!(holders(&world.path("home"), secret), Vec::<PathBuf>::new());
        assert!(!std::fs::read_to_string(&calls).unwrap().contains(secret));
        for error in [&none, &wrong, &refused] {
            assert!(!format!("{error} {error:?} {:?}", error.hint()).contains(secret));
        }
    }
    assert!(std::fs::read_to_string(&calls).unwrap().contains("push --porcelain"), "the calls were written down");
    // Gone: another answer, and another remedy.
    let gone = push_to(&git, &server.remote("gone.git"), &run, &ana).unwrap_err();
    assert!(matches!(gone, Error::NotFound { .. }), "{gone:?}");
}

#[test]
fn ssh_takes_a_key_and_knows_its_host() {
    let world = World::new();
    let server = Sshd::start(world.temp.path());
    let remote = server.remote(&world.path("remote.git"));
    let with = |key: &str, host: &str| Credentials {
        ssh_key: Some(server.key(key)),
        known_hosts: Some(if host.is_empty() { world.path("empty") } else { server.known_hosts(host) }),
        ..CREDENTIALS
    };
    let git = &world.git;
    let unknown = run_of(&world, git, &remote, &with("good", "")).unwrap_err();
    assert!(matches!(unknown, Error::HostKey { .. }), "{unknown:?}");
    let scan = format!("ssh-keyscan -p {} 127.0.0.1 >> {}", server.port, world.path("empty").display());
    assert!(unknown.hint().unwrap().contains(&scan), "{unknown:?}");
    assert!(!world.path("empty").exists(), "no key was taken unseen");
    let changed = run_of(&world, git, &remote, &with("good", "other-host")).unwrap_err();
    assert!(
        matches!(changed, Error::HostKey { .. }) && changed.hint().unwrap().contains("ssh-keygen -f"),
        "{changed:?}"
    );
    let wrong = run_of(&world, git, &remote, &with("bad", "host")).unwrap_err();
    assert!(matches!(wrong, Error::Auth { .. }) && wrong.hint().unwrap().contains("bad.pub"), "{wrong:?}");

    let run = run_of(&world, git, &remote, &with("good", "host")).unwrap();
    let before = world.refs();
    assert!(matches!(push_to(git, &remote, &run, &with("bad", "host")), Err(Error::Auth { .. })));
    assert!(!push_to(git, &remote, &run, &with("good", "host")).unwrap().already);
    assert!(push_to(git, &remote, &run, &with("good", "host")).unwrap().already);
    assert_eq!(world.refs(), format!("{before}refs/heads/{} {}\n", branch(), run.1));

    // From an agent instead of a file.
    let script = format!(
        "eval $(ssh-agent -s) >/dev/null; ssh-add -q {}; echo \"$SSH_AUTH_SOCK $SSH_AGENT_PID\"",
        server.key("good").display()
    );
    let agent = sh(world.temp.path(), &script);
    let (socket, pid) = agent.trim().split_once(' ').unwrap();
    let agent = Credentials { ssh_auth_sock: Some(socket.into()), ssh_key: None, ..with("good", "host") };
    assert!(push_to(git, &remote, &run, &agent).unwrap().already);
    sh(world.temp.path(), &format!("kill {pid}"));
    let gone = push_to(git, &server.remote(&world.path("gone.git")), &run, &with("good", "host")).unwrap_err();
    assert!(matches!(gone, Error::NotFound { .. }), "{gone:?}");
}

#[test]
fn a_server_that_never_answers_is_given_up_and_can_be_left_at_once() {
    let world = World::new();
    let (_, worktree) = world.worktree();
    write(&worktree, "new", "1");
    let (commit, tree) = commit_all(&worktree, "turn-1");
    let protection = Protection::new(Some("main"), []).unwrap();
    for scheme in ["http", "ssh"] {
        let (address, taken) = silent();
        let remote = Remote::parse(&format!("{scheme}://{address}/x.git"), Path::new("/")).unwrap();
        let order = |patience| PushOrder {
            worktree: &worktree,
            remote: &remote,
            branch: worktree.branch().as_str(),
            commit,
            tested: tree,
            protection: &protection,
            credentials: &CREDENTIALS,
            patience,
        };
        let late = push(&world.git, &order(Patience::of(Duration::from_millis(300)))).unwrap_err();
        assert!(matches!(late, Error::Timeout { .. }) && late.retryable() && late.hint().is_some(), "{late:?}");
        // Stopped as soon as the server has the connection, with minutes of patience left.
        let before = taken.load(Ordering::SeqCst);
        let cancelled = || taken.load(Ordering::SeqCst) > before;
        let stopped = push(&world.git, &order(Patience { cancelled: &cancelled, ..patience() })).unwrap_err();
        assert!(matches!(stopped, Error::Cancelled { .. }), "{stopped:?}");
    }
}

#[test]
fn a_hostile_listing_neither_leaves_the_store_nor_steers_a_terminal() {
    let world = World::new();
    let open = |answer: Vec<u8>| {
        let remote = Remote::parse(&format!("http://{}/x.git", always(answer)), Path::new("/")).unwrap();
        Store::open(&world.git, &world.path("home"), "odd", &remote, &CREDENTIALS, None, patience()).unwrap_err()
    };
    let answer = |body: &str| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n";
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    };
    let id = "1".repeat(40);
    for name in [
        "refs/heads/../../../escape",
        "refs/heads//escape",
        "refs/heads/--upload-pack=touch escape",
        "refs/heads/x\x1b[31mred",
        "refs/heads/a b",
        "refs/heads/.git/hooks/pre-push",
        "refs/heads/x.lock",
        "ref: refs/heads/main\tHEAD",
        "\u{202e}",
    ] {
        let error = open(answer(&format!("{id}\t{name}\n{id}\trefs/heads/main\n")));
        assert!(!error.to_string().chars().any(char::is_control), "{error:?}");
    }
    let lines = format!("{id}\trefs/heads/{}\n", "x".repeat(900)).repeat(20_000);
    let error = open(answer(&lines));
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
    let names: Vec<_> =
        std::fs::read_dir(world.path("home/repos")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| name.to_string_lossy().starts_with("odd.git")), "{names:?}");
    assert!(!world.path("home/repos/odd.git").exists() && !world.path("escape").exists());
}
