//! What the words of git and of a remote stand for, and what of them people may see. Starts nothing.

use std::path::PathBuf;

use super::error::Error;
use super::git::Credentials;
use super::remedy;
use super::remote::{Remote, without_credentials};
use crate::secrets::printable;

/// A text of git or a remote for people: UTF-8, no control codes, no credentials, the noise of git left out, 2,000
/// characters at most from its end.
pub(super) fn clean(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut lines: Vec<String> = Vec::new();
    for line in text.split(['\n', '\r']) {
        let line = printable(line);
        let line = without_credentials(line.trim());
        let noise = ["hint: ", "warning: core.fsyncObjectFiles", "Please make sure you have the correct access rights"];
        if !line.is_empty()
            && !noise.iter().any(|noise| line.starts_with(noise))
            && line != "and the repository exists."
        {
            lines.push(line);
        }
    }
    let text = lines.join("; ");
    let count = text.chars().count();
    if count > 2000 { format!("… {}", text.chars().skip(count - 2000).collect::<String>()) } else { text }
}

/// Which error a text of git's stands for.
pub(super) fn meaning(what: &'static str, remote: &Remote, credentials: &Credentials, stderr: &[u8]) -> Error {
    let said = clean(stderr);
    let lower = said.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let address = remote;
    let remote = remote.shown();
    if has(&["no space left on device", "disk quota exceeded"]) {
        Error::DiskFull { doing: "running git", path: PathBuf::new() }
    } else if has(&["dubious ownership"]) {
        Error::Ownership { remote }
    } else if has(&["host key verification failed", "remote host identification has changed"]) {
        Error::HostKey { remedy: remedy::host_key(address, credentials, &lower), remote, said }
    } else if has(&["mismatched algorithms", "unknown repository extension", "object-format"]) {
        Error::Unsupported { remote, what: "a format other than sha1 objects" }
    } else if has(&["error: 401", "error: 403", "error: 407", "authentication failed", "could not read username"])
        || has(&["could not read password", "terminal prompts disabled", "permission denied (", "invalid credentials"])
        || has(&["access denied", "too many authentication failures", "permission to "])
    {
        Error::Auth { remedy: remedy::access(address, credentials, &lower), remote, said }
    } else if has(&[
        "unable to update url base from redirection",
        "error: 301",
        "error: 302",
        "error: 307",
        "error: 308",
    ]) {
        Error::Redirected { remote, said }
    } else if has(&["error: 404", "repository not found", "does not appear to be a git repository"])
        || has(&["' not found", "does not exist", "no such file or directory", "project you were looking for"])
    {
        Error::NotFound { remote, said }
    } else if has(&["could not resolve", "connection refused", "connection timed out", "connection reset"])
        || has(&["failed to connect", "couldn't connect", "network is unreachable", "no route to host", "early eof"])
        || has(&[
            "operation timed out",
            "hung up unexpectedly",
            "connection closed",
            "ssl",
            "tls",
            "error: 5",
            "rpc failed",
        ])
        || has(&["unexpected disconnect", "temporary failure", "could not read from remote repository", "error: 429"])
    {
        Error::Unreachable { remote, said }
    } else {
        Error::Git { what, said }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn texts_of_a_remote_are_harmless() {
        let text =
            b"remote: \x1b[31mno\x1b[0m \x1b]0;owned\x07\xff entry\r\nhint: x\nsee https://u:tok@h/x \xe2\x80\xae!\n";
        assert_eq!(clean(text), "remote: no \u{fffd} entry; see https://h/x !");
        assert!(clean(&b"x".repeat(9000)).chars().count() <= 2002);
    }

    #[test]
    fn texts_get_their_meaning() {
        let remote = Remote::parse("https://h/x", Path::new("/")).unwrap();
        for (text, code) in [
            ("fatal: Authentication failed for 'https://h/x/'", "repo_auth"),
            ("fatal: unable to access 'https://h/x/': The requested URL returned error: 403", "repo_auth"),
            ("git@h: Permission denied (publickey).\nfatal: Could not read from remote repository.", "repo_auth"),
            ("fatal: repository 'https://h/x/' not found", "repo_not_found"),
            ("fatal: '/srv/x' does not appear to be a git repository", "repo_not_found"),
            ("fatal: unable to access 'https://h/x/': Could not resolve host: h", "unreachable"),
            ("fatal: unable to access 'https://h/x/': The requested URL returned error: 503", "unreachable"),
            ("Host key verification failed.\nfatal: Could not read from remote repository.", "host_key"),
            ("fatal: detected dubious ownership in repository at '/srv/x'", "repo_ownership"),
            ("fatal: mismatched algorithms: client sha1; server sha256", "repo_unsupported"),
            ("fatal: something new", "git_failed"),
        ] {
            assert_eq!(meaning("fetch", &remote, &Credentials::default(), text.as_bytes()).code(), code, "{text}");
        }
    }
}
