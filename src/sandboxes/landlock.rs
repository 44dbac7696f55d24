//! Landlock for a command in `bubblewrap`: writes only where the sandbox means them, and no reach out of its domain.
//!
//! It repeats what the mounts say, in another part of the kernel, and adds what mounts cannot: signals, `ptrace`,
//! `/proc/1` and abstract sockets end at the domain. As much of it as the kernel has; all within the domain is as ever.

use std::io;

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, Scope,
};

use super::WORKSPACE;
use super::bubblewrap::HOME;

/// What counts as writing, up to the newest kernel that it was tried with: later rights must not turn up by themselves.
const WRITES: ABI = ABI::V7;

/// Where anything may be made; /dev beside them, where devices may be written to.
const WRITABLE: [&str; 4] = [WORKSPACE, HOME, "/tmp", "/dev/shm"];

/// Whether this kernel has enough of it: the first version (Linux 5.13 to 5.18) would refuse every rename between two
/// folders.
pub(super) fn is_here() -> bool {
    begin().is_ok_and(|ruleset| ruleset.create().is_ok())
}

/// Restricts this thread and what it starts, for good. Without Landlock in the kernel it does nothing.
pub(super) fn restrict() -> io::Result<()> {
    match begin() {
        Ok(ruleset) => confine(ruleset, &WRITABLE).map_err(io::Error::other),
        Err(_) => Ok(()),
    }
}

/// Fails where renames between folders could not be allowed.
fn begin() -> Result<Ruleset, RulesetError> {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(AccessFs::Refer)?;
    Ok(ruleset.set_compatibility(CompatLevel::BestEffort))
}

fn confine(ruleset: Ruleset, writable: &[&str]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let writes = AccessFs::from_write(WRITES);
    let devices: BitFlags<AccessFs> = AccessFs::MakeChar | AccessFs::MakeBlock;
    let mut ruleset = ruleset.handle_access(writes)?.scope(Scope::from_all(WRITES))?.create()?;
    for folder in writable {
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(folder)?, writes & !devices))?;
    }
    let use_device = AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;
    ruleset.add_rule(PathBeneath::new(PathFd::new("/dev")?, use_device))?.restrict_self()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Without any mount in the way: in a thread, which it ends with.
    #[test]
    fn writes_end_at_the_folders_that_are_named() {
        assert!(is_here(), "this machine's kernel is to have it");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (inside, outside) = (folder.path().join("in"), folder.path().join("out"));
        for each in [&inside, &outside] {
            fs::create_dir_all(each.join("sub")).expect("a folder");
            fs::write(each.join("file"), "text").expect("a file");
        }
        let restricted = {
            let (inside, outside) = (inside.clone(), outside.clone());
            std::thread::spawn(move || {
                confine(begin().expect("it is here"), &[inside.to_str().expect("text")]).expect("it can be set up");
                fs::write(inside.join("new"), "x").expect("inside");
                fs::rename(inside.join("new"), inside.join("sub/new")).expect("from folder to folder");
                fs::hard_link(inside.join("sub/new"), inside.join("link")).expect("inside");
                fs::write("/dev/null", "x").expect("a device");
                assert_eq!(fs::read(outside.join("file")).expect("reading is not its affair"), b"text");
                let denied = [
                    fs::write(outside.join("new"), "x"),
                    fs::write(outside.join("file"), "x"),
                    fs::remove_file(outside.join("file")),
                    fs::create_dir(outside.join("folder")),
                    fs::rename(inside.join("file"), outside.join("moved")),
                    fs::hard_link(outside.join("file"), inside.join("stolen")),
                    std::os::unix::fs::symlink("x", outside.join("link")),
                    std::os::unix::net::UnixListener::bind(outside.join("socket")).map(drop),
                ];
                for (which, result) in denied.into_iter().enumerate() {
                    let kind = result.expect_err("it must be denied").kind();
                    let wanted = [io::ErrorKind::PermissionDenied, io::ErrorKind::CrossesDevices];
                    assert!(wanted.contains(&kind), "{which}: {kind}");
                }
            })
        };
        restricted.join().expect("all was as it should be");
        assert_eq!(fs::read_dir(&outside).expect("a folder").count(), 2);
        fs::write(outside.join("new"), "x").expect("this thread is free");
    }
}
