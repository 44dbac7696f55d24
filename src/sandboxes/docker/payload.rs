//! What of the host a container must hold so that this program runs in it, whatever its image is made of.
//!
//! The program, the dynamic loader and the libraries that are mapped into it now, each as one read-only file: they are
//! started together, so neither musl nor an older libc in the image matters. Knows nothing of what it will do there.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::init::INIT_WORD;

/// This program in a container, in the folder there that is ours.
pub(super) const PROGRAM: &str = "/.devo/devo";
/// Where a container finds the socket of its proxy, if it has one.
pub(super) const PROXY_FOLDER: &str = "/.devo/net";
/// Its name there.
pub(super) const PROXY_SOCKET: &str = "proxy.sock";
const LOADER: &str = "/.devo/ld.so";
const LIBRARIES: &str = "/.devo/lib";

/// Files to show in a container, and the command that starts its first process.
#[derive(Debug)]
pub(super) struct Payload {
    /// Host file by path in the container.
    pub files: BTreeMap<String, PathBuf>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// A copy, where the program's own file is gone or was replaced.
    _copy: Option<tempfile::TempDir>,
}

impl Payload {
    /// For the program at that path, which has the libraries of this one.
    ///
    /// # Errors
    /// The program's file cannot be read.
    pub fn of(program: &Path) -> io::Result<Self> {
        let (program, copy) = file_of(program)?;
        let maps = fs::read_to_string("/proc/self/maps")?;
        let mut files = BTreeMap::from([(PROGRAM.to_owned(), program)]);
        let mut loader = false;
        for library in libraries(&maps) {
            if is_loader(&library) {
                files.insert(LOADER.to_owned(), library);
                loader = true;
                continue;
            }
            for name in names(&library) {
                files.insert(format!("{LIBRARIES}/{name}"), library.clone());
            }
        }
        let own = [PROGRAM, INIT_WORD];
        let command: Vec<&str> = match loader {
            true => [&[LOADER, "--library-path", LIBRARIES][..], &own].concat(),
            // Nothing to load: the program is linked statically.
            false => own.to_vec(),
        };
        Ok(Self { files, command: command.into_iter().map(str::to_owned).collect(), _copy: copy })
    }
}

/// A path at which the program can be found by others. `/proc/self/exe` means something else to everyone.
fn file_of(program: &Path) -> io::Result<(PathBuf, Option<tempfile::TempDir>)> {
    let running = fs::metadata(program)?;
    if let Ok(path) = program.canonicalize()
        && fs::metadata(&path).is_ok_and(|found| (found.dev(), found.ino()) == (running.dev(), running.ino()))
    {
        return Ok((path, None));
    }
    let folder = tempfile::Builder::new().prefix("devo-").permissions(fs::Permissions::from_mode(0o755)).tempdir()?;
    let path = folder.path().join("devo");
    fs::copy(program, &path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok((path, Some(folder)))
}

/// The shared objects of a memory map, each once.
fn libraries(maps: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])))
        .filter(|path| is_library(path))
        .collect();
    found.sort();
    found.dedup();
    found
}

fn is_library(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    (name.ends_with(".so") || name.contains(".so.")) && path.is_file()
}

/// Every libc calls it so: `ld-linux-x86-64.so.2`, `ld-2.31.so`, `ld64.so.2`, `ld-musl-x86_64.so.1`.
fn is_loader(library: &Path) -> bool {
    let name = library.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.starts_with("ld-") || name.starts_with("ld64.") || name.starts_with("ld.so")
}

/// A library's file name, and the links beside it that lead to it: a program asks for `libc.so.6`, the file may be
/// `libc-2.31.so`.
fn names(library: &Path) -> Vec<String> {
    let text = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    let mut found: Vec<String> = text(library).into_iter().collect();
    let family = found.first().and_then(|name| name.split(['.', '-']).next()).unwrap_or_default().to_owned();
    for entry in library.parent().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = text(&path).filter(|name| name.starts_with(&family));
        if entry.file_type().is_ok_and(|kind| kind.is_symlink())
            && let Some(name) = ours
            && path.canonicalize().is_ok_and(|target| target == library)
        {
            found.push(name);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_library_is_known_by_its_links_too() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let folder = folder.path().canonicalize().expect("it exists");
        let file = folder.join("libc-2.31.so");
        fs::write(&file, "").expect("a file");
        symlink("libc-2.31.so", folder.join("libc.so.6")).expect("a link");
        symlink("elsewhere", folder.join("libc.so.7")).expect("a link");
        let mut found = names(&file);
        found.sort();
        assert_eq!(found, ["libc-2.31.so", "libc.so.6"]);
        let maps = format!(
            "7f0-7f1 r-xp 0 08:01 12 {0}\n7f1-7f2 rw-p 0 08:01 12 {0}\n7f2-7f3 rw-p 0 0:0 0 [stack]\n\
             7f3-7f4 r-xp 0 08:01 9 {0}.absent\n",
            file.display()
        );
        assert_eq!(libraries(&maps), [file]);
        assert!(is_loader(Path::new("/lib/ld-2.31.so")) && !is_loader(Path::new("/lib/libld.so")));
    }

    #[test]
    fn a_program_whose_file_is_gone_is_copied() {
        let (path, copy) = file_of(Path::new("/proc/self/exe")).expect("this test runs");
        assert!(path.is_file() && copy.is_none());
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = folder.path().join("program");
        fs::copy("/bin/sleep", &program).expect("a program");
        assert_eq!(file_of(&program).expect("it is there").0, program.canonicalize().expect("it is there"));
        let mut running = std::process::Command::new(&program).arg("1000").spawn().expect("it runs");
        fs::remove_file(&program).expect("ours");
        let copied = file_of(Path::new(&format!("/proc/{}/exe", running.id())));
        running.kill().and_then(|()| running.wait()).expect("it ran");
        let (path, copy) = copied.expect("what runs can be read");
        assert!(copy.is_some_and(|folder| path.starts_with(folder.path())));
        assert!(file_of(&folder.path().join("absent")).is_err());
    }
}
