//! The push broker: what it refuses, what the remote refuses, and what a token is sent to.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use super::*;

struct Ready {
    world: World,
    worktree: Worktree,
    commit: CommitId,
    tree: TreeId,
}

fn ready() -> Ready {
    let world = World::new();
    let (_, worktree) = world.worktree();
    write(&worktree, "new", "1");
    let (commit, tree) = commit_all(&worktree, "turn-1");
    Ready { world, worktree, commit, tree }
}

impl Ready {
    fn push_to(&self, remote: &Remote, branch: &str, tested: TreeId, credentials: &Credentials) -> Result<Pushed> {
        let protection = Protection::new(Some("main"), ["task/shared-*"])?;
        let order = PushOrder {
            worktree: &self.worktree,
            remote,
            branch,
            commit: self.commit,
            tested,
            protection: &protection,
            credentials,
            patience: patience(),
        };
        push(&self.world.git, &order)
    }

    fn push(&self, branch: &str) -> Result<Pushed> {
        self.push_to(&self.world.remote(), branch, self.tree, &CREDENTIALS)
    }
}

#[test]
fn only_the_runs_own_branch_and_the_tested_commit_leave() {
    let ready = ready();
    let before = ready.world.refs();
    for bad in
        ["main", "MAIN", "refs/heads/main", "development", "release/1", "task/other", "task/shared-x", "+main", ""]
    {
        assert!(matches!(ready.push(bad), Err(Error::Protected { .. })), "{bad}");
    }
    let base_tree = ready.worktree.tree_of(ready.worktree.base()).unwrap();
    let untested = ready.push_to(&ready.world.remote(), branch().as_str(), base_tree, &CREDENTIALS);
    assert!(matches!(untested, Err(Error::NotTheTestedCommit { .. })));
    // The base itself: it holds the tested tree, but is no commit of the run.
    let foreign = Ready { commit: ready.worktree.base(), tree: base_tree, ..ready };
    assert!(matches!(foreign.push(branch().as_str()), Err(Error::NotTheTestedCommit { .. })));
    // The remote made our branch its default one meanwhile.
    foreign.world.sh(&format!("git -C remote.git symbolic-ref HEAD refs/heads/{}", branch()));
    foreign.world.sh(&format!("git -C remote.git branch {} main", branch()));
    let (commit, tree) = (foreign.worktree.head().unwrap(), foreign.worktree.snapshot("x").unwrap().tree);
    let ready = Ready { commit, tree, ..foreign };
    assert!(matches!(ready.push(branch().as_str()), Err(Error::Protected { .. })));
    ready.world.sh(&format!("git -C remote.git update-ref -d refs/heads/{}", branch()));
    assert_eq!(ready.world.refs(), before);
}

#[test]
fn another_commit_on_the_branch_is_left_alone_but_an_own_one_is_continued() {
    let mut ready = ready();
    ready.push(branch().as_str()).unwrap();
    write(&ready.worktree, "new", "2");
    (ready.commit, ready.tree) = commit_all(&ready.worktree, "turn-2");
    assert!(!ready.push(branch().as_str()).unwrap().already);

    ready.world.sh(&format!("git -C remote.git branch -f {} main", branch()));
    let before = ready.world.refs();
    let error = ready.push(branch().as_str()).unwrap_err();
    assert!(matches!(error, Error::RemoteMoved { .. }) && !error.retryable(), "{error}");
    assert_eq!(ready.world.refs(), before);
}

#[test]
fn a_remote_that_refuses_is_quoted_without_its_control_codes() {
    let ready = ready();
    std::fs::create_dir_all(ready.world.path("remote.git/hooks")).unwrap();
    ready.world.sh(
        "printf '#!/bin/sh\\nprintf \"\\\\033[31mpolicy\\\\033[0m: no \\\\007tasks\\\\n\" >&2; exit 1\\n' > remote.git/hooks/pre-receive \
         && chmod +x remote.git/hooks/pre-receive",
    );
    let before = ready.world.refs();
    let error = ready.push(branch().as_str()).unwrap_err();
    let Error::Rejected { said, .. } = &error else { panic!("{error:?}") };
    assert_eq!(said, "[remote rejected] (pre-receive hook declined); policy: no tasks");
    assert_eq!(error.to_failure().code, "push_rejected");
    assert_eq!(ready.world.refs(), before);
    ready.world.sh("rm remote.git/hooks/pre-receive");
    ready.push(branch().as_str()).unwrap();
}

#[test]
fn a_push_to_nowhere_says_why() {
    let ready = ready();
    let to = |url: &str| {
        let remote = Remote::parse(url, Path::new("/")).unwrap();
        ready.push_to(&remote, branch().as_str(), ready.tree, &CREDENTIALS).unwrap_err()
    };
    let error = to("http://127.0.0.1:1/x.git");
    assert!(matches!(error, Error::Unreachable { .. }) && error.retryable(), "{error:?}");
    assert!(matches!(to("/no/such/repository"), Error::NotFound { .. }));
}

/// Answers every request with the same text until it is dropped; says what it was asked.
fn serve(answer: String) -> (String, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = Vec::new();
            let mut chunk = [0; 4096];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut chunk) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => request.extend_from_slice(&chunk[..read]),
                }
            }
            // Before the answer: who got it may look at once.
            if sender.send(String::from_utf8_lossy(&request).into_owned()).is_err() {
                return;
            }
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (address, receiver)
}

#[test]
fn a_token_goes_to_its_host_only_and_appears_nowhere() {
    let ready = ready();
    let (elsewhere, asked_elsewhere) =
        serve("HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into());
    let credentials = Credentials { token: Some("tok-s3cret".to_owned().into()), ..CREDENTIALS };
    let to = |answer: String| {
        let (address, asked) = serve(answer);
        let remote = Remote::parse(&format!("http://ana@{address}/x.git"), Path::new("/")).unwrap();
        let error = ready.push_to(&remote, branch().as_str(), ready.tree, &credentials).unwrap_err();
        let text = format!("{error} {error:?} {:?}", error.hint());
        assert!(!text.contains("tok-s3cret") && !text.contains("YW5hOnRvay1zM2NyZXQ"), "{text}");
        (error, asked.try_iter().collect::<Vec<_>>())
    };
    let moved = format!(
        "HTTP/1.1 302 Found\r\nLocation: http://{elsewhere}/x.git/info/refs?service=git-upload-pack\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let (error, _) = to(moved);
    assert!(matches!(error, Error::Redirected { .. }), "{error:?}");
    assert_eq!(asked_elsewhere.try_iter().count(), 0);

    let denied = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\
                  Connection: close\r\n\r\n";
    let (error, asked) = to(denied.to_owned());
    assert!(matches!(error, Error::Auth { .. }) && !error.retryable(), "{error:?}");
    // base64 of `ana:tok-s3cret`
    assert!(asked[0].contains("Authorization: Basic YW5hOnRvay1zM2NyZXQ="), "{}", asked[0]);

    let (error, _) = to("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned());
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}
