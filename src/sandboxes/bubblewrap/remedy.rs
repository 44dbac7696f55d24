//! What mends a `bwrap` that is missing something: its version, its complaints, and the kernel settings behind them.

use std::path::Path;

use super::super::SandboxError;

/// Asks the program for its version.
pub(super) fn version(program: &Path) -> Result<(u32, u32), SandboxError> {
    let output = std::process::Command::new(program).arg("--version").env_clear().current_dir("/").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    parse_version(&text).ok_or_else(|| SandboxError::Unavailable {
        what: format!("`{} --version` does not say its version", program.display()),
        hint: "reinstall the package bubblewrap".into(),
    })
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_whitespace().next_back()?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// What mends a sandbox that complained so; `setting` reads a kernel setting.
pub(super) fn remedy(complaint: &str, setting: impl Fn(&str) -> Option<String>) -> String {
    let is = |name, value| setting(name).is_some_and(|found| found.trim() == value);
    let refused = ["uid map", "RTM_NEWADDR", "namespace", "Operation not permitted", "Permission denied"];
    let lines: &[&str] = match () {
        () if is("kernel/apparmor_restrict_unprivileged_userns", "1") => &[
            "this system lets only known programs make user namespaces; load the profile that it ships for bubblewrap:",
            "  sudo apt install apparmor-profiles",
            "  sudo cp /usr/share/apparmor/extra-profiles/bwrap-userns-restrict /etc/apparmor.d/",
            "  sudo apparmor_parser -r /etc/apparmor.d/bwrap-userns-restrict",
        ],
        () if is("kernel/unprivileged_userns_clone", "0") => {
            &["user namespaces are switched off: sudo sysctl -w kernel.unprivileged_userns_clone=1"]
        }
        () if is("user/max_user_namespaces", "0") => {
            &["user namespaces are switched off: sudo sysctl -w user.max_user_namespaces=15000"]
        }
        () if refused.iter().any(|word| complaint.contains(word)) => &[
            "the kernel refuses new namespaces, as it does in most containers: run devo outside of the container, or",
            "let the container make namespaces (docker run --security-opt seccomp=unconfined --security-opt",
            "systempaths=unconfined …)",
        ],
        () => {
            &["try `bwrap --unshare-all --ro-bind / / true`; if that fails too, bubblewrap is broken on this machine"]
        }
    };
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_remedy() {
        let apparmor =
            remedy("setting up uid map: Permission denied", |name| name.contains("apparmor").then(|| "1\n".to_owned()));
        assert!(apparmor.contains("apparmor_parser -r"), "{apparmor}");
        let old = remedy("No permissions", |name| name.contains("userns_clone").then(|| "0\n".to_owned()));
        assert!(old.contains("unprivileged_userns_clone=1"), "{old}");
        assert!(remedy("Creating new namespace failed", |_| None).contains("container"));
        assert!(remedy("?", |_| None).contains("broken"));
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version("bubblewrap 0.11.0\n"), Some((0, 11)));
        assert_eq!(parse_version("nonsense"), None);
    }
}
