//! Files as the tools see them: a checked path, the reading trait [`Source`], and trees that are not on disk.
//!
//! It does not know git, sandboxes or who asks. The folder on disk, the only thing that can write, is in `folder`.

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

/// The longest path in bytes (the kernel's own limit).
const LONGEST_PATH: usize = 4096;
/// The longest name of one part in bytes (the usual file systems' limit).
const LONGEST_NAME: usize = 255;
/// The most entries that one walk returns.
pub const WALK_LIMIT: usize = 50_000;

/// A path relative to the root, already cleaned: no `..`, no leading `/`, no `.git` in any spelling, no control codes.
///
/// The empty path is the root itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoPath(String);

impl RepoPath {
    /// The root.
    pub fn root() -> Self {
        Self(String::new())
    }

    /// Checks and cleans a path: `./a//b/` becomes `a/b`, `` and `.` the root.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let refuse = |why: &'static str| Err(FileError::Path { path: shown(text), why });
        if text.len() > LONGEST_PATH {
            return refuse("it is longer than 4096 bytes");
        }
        if text.chars().any(|c| c.is_control() || is_invisible(c)) {
            return refuse("it holds control or invisible characters");
        }
        if text.contains('\\') {
            return refuse("it holds a backslash; use `/`");
        }
        if text.starts_with('/') || text.starts_with('~') {
            return refuse("it is absolute; give it relative to the root of the repository");
        }
        let mut clean = String::with_capacity(text.len());
        for part in text.split('/') {
            match part {
                "" | "." => continue,
                ".." => return refuse("it has `..`; give it relative to the root of the repository"),
                _ => {}
            }
            if part.len() > LONGEST_NAME {
                return refuse("a part of it is longer than 255 bytes");
            }
            if is_git_name(part) {
                return refuse("git's own folder is out of reach");
            }
            if !clean.is_empty() {
                clean.push('/');
            }
            clean.push_str(part);
        }
        Ok(Self(clean))
    }

    /// With `/` between the parts; empty for the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the root itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The last part; empty for the root.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or("")
    }

    /// The folder that holds it; the root for the root.
    pub fn parent(&self) -> Self {
        Self(self.0.rsplit_once('/').map(|(parent, _)| parent.to_owned()).unwrap_or_default())
    }

    /// What `name` is in this folder; refused like [`RepoPath::parse`] refuses.
    pub fn join(&self, name: &str) -> Result<Self, FileError> {
        if self.is_root() { Self::parse(name) } else { Self::parse(&format!("{}/{name}", self.0)) }
    }

    /// The parts, from the root down; none for the root.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|part| !part.is_empty())
    }

    /// Whether `path` lies in this folder (or is it).
    pub fn holds(&self, path: &str) -> bool {
        self.is_root() || path.strip_prefix(self.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_root() { "." } else { &self.0 })
    }
}

/// Whether a name is git's folder in one of the spellings that some file system takes for it.
pub fn is_git_name(name: &str) -> bool {
    let plain: String = name.chars().filter(|c| !is_invisible(*c)).collect::<String>().to_ascii_lowercase();
    // `.git::$INDEX_ALLOCATION` and `.git:x` are the folder or its streams on NTFS.
    let plain = plain.split(':').next().unwrap_or("");
    let plain = plain.trim_end_matches(['.', ' ']);
    plain == ".git"
        || plain.strip_prefix("git~").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Characters that some file systems drop from names, or that hide what a name says.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// A path for a message: bounded and without control codes.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && !is_invisible(*c)).take(200).collect()
}

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link, never followed.
    Link,
    /// A device, a pipe, a socket, a submodule: listed, never opened.
    Other,
}

/// One thing in a folder or a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// From the root, with `/`.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Bytes; 0 where that has no meaning.
    pub size: u64,
    /// Whether it is a file that may be executed.
    pub executable: bool,
}

/// The start of a file, or all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// At most as many bytes as were asked for.
    pub bytes: Vec<u8>,
    /// How many bytes the file has.
    pub size: u64,
}

impl Content {
    /// Whether the file is longer than `bytes`.
    pub fn is_cut(&self) -> bool {
        self.size > self.bytes.len() as u64
    }

    /// Whether it looks like something that is not text.
    pub fn is_binary(&self) -> bool {
        self.bytes.iter().take(8192).any(|b| *b == 0)
    }
}

/// What a walk found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Walk {
    /// Files, links and special files, sorted by path; no folders.
    pub entries: Vec<Entry>,
    /// Whether that is all; false where a limit ended the walk.
    pub complete: bool,
}

/// Whether work that can take long must end now, because nobody waits for it any more or it has had its time. It is asked
/// often, so it answers at once.
pub type StopNow<'a> = &'a (dyn Fn() -> bool + 'a);

/// Reading, confined to a root. Nothing behind this trait can write.
pub trait Source: Send + Sync {
    /// What is in a folder, by name, ignored entries left out; only a part of it once it must stop.
    fn list(&self, dir: &RepoPath, stop: StopNow<'_>) -> Result<Vec<Entry>, FileError>;
    /// All files below a folder, sorted by path, ignored ones left out, at most [`WALK_LIMIT`]; not complete where it had to
    /// stop.
    fn walk(&self, dir: &RepoPath, stop: StopNow<'_>) -> Result<Walk, FileError>;
    /// What stands at a path; the root and folders included.
    fn metadata(&self, path: &RepoPath) -> Result<Entry, FileError>;
    /// The first `cap` bytes of a regular file. Secret-like and ignored files are refused.
    fn read(&self, path: &RepoPath, cap: u64) -> Result<Content, FileError>;
    /// The newest commits that touched a path, one line each; none where there is no history.
    fn history(&self, path: &RepoPath, limit: usize) -> Result<Vec<String>, FileError> {
        let _ = (path, limit);
        Ok(Vec::new())
    }
}

/// A tree of files that is not on disk, such as the tree of a commit. [`TreeSource`] makes a [`Source`] of it.
pub trait Tree: Send + Sync {
    /// Every file, link and submodule (no folders), in any order.
    fn entries(&self) -> Result<Vec<Entry>, FileError>;
    /// The first `cap` bytes of a file, or the target of a link; [`FileError::NotFound`] where there is none.
    fn blob(&self, path: &str, cap: u64) -> Result<Vec<u8>, FileError>;
    /// The newest commits that touched a path, one line each; none where there is no history.
    fn history(&self, path: &str, limit: usize) -> Result<Vec<String>, FileError> {
        let _ = (path, limit);
        Ok(Vec::new())
    }
}

/// A tree in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryTree {
    files: BTreeMap<String, Vec<u8>>,
}

impl MemoryTree {
    /// From paths and contents.
    pub fn new<P: Into<String>, C: Into<Vec<u8>>>(files: impl IntoIterator<Item = (P, C)>) -> Self {
        Self { files: files.into_iter().map(|(path, content)| (path.into(), content.into())).collect() }
    }
}

impl Tree for MemoryTree {
    fn entries(&self) -> Result<Vec<Entry>, FileError> {
        let entry = |(path, bytes): (&String, &Vec<u8>)| Entry {
            path: path.clone(),
            kind: Kind::File,
            size: bytes.len() as u64,
            executable: false,
        };
        Ok(self.files.iter().map(entry).collect())
    }

    fn blob(&self, path: &str, cap: u64) -> Result<Vec<u8>, FileError> {
        let bytes = self.files.get(path).ok_or_else(|| FileError::NotFound { path: shown(path) })?;
        let end = usize::try_from(cap).unwrap_or(usize::MAX).min(bytes.len());
        Ok(bytes[..end].to_vec())
    }
}

/// A [`Tree`] as a [`Source`]: folders are made up from the paths, and odd paths are left out.
pub struct TreeSource<T> {
    tree: T,
    /// Sorted by path; every path has passed [`RepoPath::parse`] unchanged.
    entries: Vec<Entry>,
}

impl<T: Tree> TreeSource<T> {
    /// Reads the list of entries once.
    pub fn new(tree: T) -> Result<Self, FileError> {
        let mut entries = tree.entries()?;
        entries.retain(|entry| RepoPath::parse(&entry.path).is_ok_and(|path| path.as_str() == entry.path));
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        entries.dedup_by(|a, b| a.path == b.path);
        Ok(Self { tree, entries })
    }

    fn below<'a>(&'a self, dir: &'a RepoPath) -> impl Iterator<Item = (&'a Entry, &'a str)> {
        let start = if dir.is_root() { String::new() } else { format!("{dir}/") };
        // Sorted, so what lies in one folder stands together.
        let from = self.entries.partition_point(|entry| entry.path < start);
        self.entries[from..].iter().map_while(move |entry| entry.path.strip_prefix(&start).map(|rest| (entry, rest)))
    }

    fn folder(&self, dir: &RepoPath) -> Result<(), FileError> {
        match self.metadata(dir)?.kind {
            Kind::Folder => Ok(()),
            _ => Err(FileError::NotFolder { path: dir.to_string() }),
        }
    }
}

impl<T: Tree> Source for TreeSource<T> {
    fn history(&self, path: &RepoPath, limit: usize) -> Result<Vec<String>, FileError> {
        self.tree.history(path.as_str(), limit)
    }

    fn list(&self, dir: &RepoPath, stop: StopNow<'_>) -> Result<Vec<Entry>, FileError> {
        self.folder(dir)?;
        let mut found: BTreeMap<String, Entry> = BTreeMap::new();
        for (entry, rest) in self.below(dir) {
            if stop() {
                break;
            }
            match rest.split_once('/') {
                None => {
                    found.insert(entry.path.clone(), entry.clone());
                }
                Some((name, _)) => {
                    let path = entry.path[..entry.path.len() - rest.len() + name.len()].to_owned();
                    let folder = Entry { path: path.clone(), kind: Kind::Folder, size: 0, executable: false };
                    found.insert(path, folder);
                }
            }
        }
        Ok(found.into_values().collect())
    }

    fn walk(&self, dir: &RepoPath, _: StopNow<'_>) -> Result<Walk, FileError> {
        self.folder(dir)?;
        let mut entries: Vec<Entry> = self.below(dir).map(|(entry, _)| entry.clone()).take(WALK_LIMIT + 1).collect();
        let complete = entries.len() <= WALK_LIMIT;
        entries.truncate(WALK_LIMIT);
        Ok(Walk { entries, complete })
    }

    fn metadata(&self, path: &RepoPath) -> Result<Entry, FileError> {
        if let Ok(index) = self.entries.binary_search_by(|entry| entry.path.as_str().cmp(path.as_str())) {
            return Ok(self.entries[index].clone());
        }
        if path.is_root() || self.below(path).next().is_some() {
            return Ok(Entry { path: path.as_str().to_owned(), kind: Kind::Folder, size: 0, executable: false });
        }
        Err(FileError::NotFound { path: path.to_string() })
    }

    fn read(&self, path: &RepoPath, cap: u64) -> Result<Content, FileError> {
        let entry = self.metadata(path)?;
        check_secret_name(path)?;
        match entry.kind {
            Kind::File => {}
            Kind::Link => {
                let target = String::from_utf8_lossy(&self.tree.blob(path.as_str(), 4096)?).into_owned();
                return Err(FileError::Link { path: path.to_string(), target: Some(shown(&target)) });
            }
            Kind::Folder => return Err(FileError::NotFile { path: path.to_string(), what: "a folder" }),
            Kind::Other => return Err(FileError::NotFile { path: path.to_string(), what: "a submodule" }),
        }
        let content = Content { bytes: self.tree.blob(path.as_str(), cap)?, size: entry.size };
        check_secret_content(path, &content.bytes)?;
        Ok(content)
    }
}

/// Refuses files that by their name hold keys or tokens.
pub fn check_secret_name(path: &RepoPath) -> Result<(), FileError> {
    match secret_like(path.as_str()) {
        Some(why) => Err(FileError::Secret { path: path.to_string(), why }),
        None => Ok(()),
    }
}

/// Refuses package managers' settings that hold a token.
pub fn check_secret_content(path: &RepoPath, bytes: &[u8]) -> Result<(), FileError> {
    let name = path.name().to_ascii_lowercase();
    let settings =
        [".npmrc", ".yarnrc", ".yarnrc.yml", ".pypirc", "pip.conf", "nuget.config", "settings.xml", ".gitconfig"];
    if !settings.contains(&name.as_str()) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let marks = ["_authtoken", "_auth=", "_auth =", "_password", "npmauthtoken", "password", "cleartextpassword"];
    match marks.iter().any(|mark| text.contains(mark)) {
        true => Err(FileError::Secret { path: path.to_string(), why: "it holds a token or password" }),
        false => Ok(()),
    }
}

/// Why a path looks like one that holds secrets, or none.
pub fn secret_like(path: &str) -> Option<&'static str> {
    let path = path.to_ascii_lowercase();
    let parts: Vec<&str> = path.split('/').collect();
    let (name, folders) = parts.split_last()?;
    if folders.iter().any(|part| matches!(*part, ".ssh" | ".gnupg" | ".aws" | ".azure" | ".kube" | ".gcloud")) {
        return Some("its folder holds credentials");
    }
    if *name == ".env" || *name == ".envrc" {
        return Some("it holds environment secrets");
    }
    if let Some(rest) = name.strip_prefix(".env.") {
        let samples = ["example", "sample", "template", "dist", "defaults", "schema", "d.ts"];
        return (!samples.iter().any(|sample| rest == *sample || rest.ends_with(&format!(".{sample}"))))
            .then_some("it holds environment secrets");
    }
    let key_start = ["id_rsa", "id_dsa", "id_ecdsa", "id_ed25519"];
    if key_start.iter().any(|start| name.starts_with(start)) && !name.ends_with(".pub") {
        return Some("it is a private key");
    }
    let key_end = [".pem", ".key", ".p12", ".pfx", ".jks", ".keystore", ".kdbx", ".ppk", ".asc", ".gpg", ".p8"];
    if key_end.iter().any(|end| name.ends_with(end)) {
        return Some("it is a key or certificate");
    }
    let known = [
        ".netrc",
        "_netrc",
        ".pgpass",
        ".htpasswd",
        ".git-credentials",
        ".dockercfg",
        "credentials.json",
        "client_secret.json",
        "service-account.json",
        "service_account.json",
        ".vault-token",
        ".terraformrc",
    ];
    if known.contains(name) || (*name == "config.json" && folders.last() == Some(&".docker")) {
        return Some("it holds credentials");
    }
    (name.ends_with(".tfstate") || name.ends_with(".tfvars")).then_some("it may hold credentials")
}

/// Why a file cannot be read or written.
#[derive(Debug, Error)]
pub enum FileError {
    /// The path itself is refused.
    #[error("the path `{path}` is refused: {why}")]
    Path {
        /// As given, cleaned for display.
        path: String,
        /// The reason.
        why: &'static str,
    },
    /// Nothing is there.
    #[error("`{path}` does not exist")]
    NotFound {
        /// From the root.
        path: String,
    },
    /// Not a regular file.
    #[error("`{path}` is {what}, not a file")]
    NotFile {
        /// From the root.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// Not a folder.
    #[error("`{path}` is not a folder")]
    NotFolder {
        /// From the root.
        path: String,
    },
    /// A symbolic link, or a path through one.
    #[error("`{path}` is or passes through a symbolic link{}", target.as_deref().map(|t| format!(" to `{t}`")).unwrap_or_default())]
    Link {
        /// From the root.
        path: String,
        /// Where it points, where known; only shown.
        target: Option<String>,
    },
    /// Looks like a secret.
    #[error("`{path}` is not readable or writable here: {why}")]
    Secret {
        /// From the root.
        path: String,
        /// The reason.
        why: &'static str,
    },
    /// Ignored by the repository.
    #[error("`{path}` is ignored by the repository (`{rule}`)")]
    Ignored {
        /// From the root.
        path: String,
        /// The pattern and its file.
        rule: String,
    },
    /// The kernel lacks the confined open.
    #[error("this kernel or container has no confined file access (openat2)")]
    Unsupported,
    /// The tree could not be read.
    #[error("`{path}` cannot be read from the tree: {message}")]
    Tree {
        /// From the root.
        path: String,
        /// What the store said.
        message: String,
    },
    /// The file system said no.
    #[error("`{path}`: {source}")]
    Io {
        /// From the root.
        path: String,
        /// What it said.
        source: std::io::Error,
    },
}

impl FileError {
    /// What to do instead, where there is something.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Path { .. } => "paths are relative to the root of the repository, for example `src/main.rs`",
            Self::NotFound { .. } => "look it up with the glob or list tool",
            Self::NotFile { what: "a folder", .. } => "list the folder instead",
            Self::Link { .. } => "name the file that the link points to",
            Self::Secret { .. } => "work without it; ask the person if its value matters",
            Self::Ignored { .. } => "ignored files are never committed; work on the sources",
            Self::Unsupported => "Linux 5.6 or newer is needed, and a container whose seccomp profile allows openat2",
            Self::NotFile { .. } | Self::NotFolder { .. } | Self::Tree { .. } | Self::Io { .. } => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &str) -> bool {
        matches!(RepoPath::parse(path), Err(FileError::Path { .. }))
    }

    #[test]
    fn paths_are_cleaned_or_refused() {
        for (given, clean) in [("./a//b/", "a/b"), (".", ""), ("", ""), ("a/./b", "a/b"), (".github/x", ".github/x")] {
            assert_eq!(RepoPath::parse(given).expect(given).as_str(), clean);
        }
        for bad in ["/etc/passwd", "..", "a/../../b", "a/..", "~/x", "a\\b", "a\0b", "a\nb", "x\u{202e}y", "/"] {
            assert!(refused(bad), "{bad:?}");
        }
        for git in [
            ".git",
            ".GIT/config",
            "a/.Git/hooks/x",
            ".git.",
            ".git ",
            ".git. .",
            "git~1",
            "GIT~12/config",
            ".git::$INDEX_ALLOCATION/config",
            ".g\u{200c}it/config",
            ".git:x",
        ] {
            assert!(refused(git), "{git:?}");
        }
        for fine in [".gitignore", ".gitattributes", "git", "x.git", "git~", ".github", "src/.gitkeep"] {
            assert!(!refused(fine), "{fine:?}");
        }
        assert!(refused(&"a/".repeat(3000)));
        assert!(refused(&"a".repeat(256)));
    }

    #[test]
    fn secrets_by_name() {
        for secret in [
            ".env",
            "x/.ENV",
            ".env.local",
            ".env.production",
            "certs/server.pem",
            "a.key",
            "id_rsa",
            "id_rsa.old",
            "id_ed25519",
            ".netrc",
            ".ssh/config",
            "home/.aws/credentials",
            ".docker/config.json",
        ] {
            assert!(secret_like(secret).is_some(), "{secret}");
        }
        for fine in
            [".env.example", ".env.local.example", "src/secrets.rs", "id_rsa.pub", "config.json", "keys.py", ".npmrc"]
        {
            assert!(secret_like(fine).is_none(), "{fine}");
        }
    }

    #[test]
    fn a_tree_lists_reads_and_refuses() {
        let tree = MemoryTree::new([
            ("README.md", "hi"),
            ("src/a/x.py", "one"),
            ("src/b.py", "two"),
            (".env", "KEY=1"),
            (".npmrc", "//registry/:_authToken=abc"),
            ("../evil", "x"),
            (".GIT/config", "x"),
        ]);
        let source = TreeSource::new(tree).expect("a tree");
        let paths = |entries: Vec<Entry>| entries.into_iter().map(|e| e.path).collect::<Vec<_>>();
        let at = |path: &str| RepoPath::parse(path).expect("a good path");
        assert_eq!(paths(source.list(&at("src"), &|| false).expect("a folder")), ["src/a", "src/b.py"]);
        assert_eq!(
            paths(source.walk(&RepoPath::root(), &|| false).expect("a walk").entries),
            [".env", ".npmrc", "README.md", "src/a/x.py", "src/b.py"]
        );
        assert!(matches!(source.list(&at("src/b.py"), &|| false), Err(FileError::NotFolder { .. })));
        assert!(matches!(source.read(&at("src"), 10), Err(FileError::NotFile { .. })));
        assert!(matches!(source.read(&at(".env"), 10), Err(FileError::Secret { .. })));
        assert!(matches!(source.read(&at(".npmrc"), 100), Err(FileError::Secret { .. })));
        assert!(matches!(source.read(&at("sr"), 10), Err(FileError::NotFound { .. })));
        let content = source.read(&at("src/b.py"), 2).expect("a file");
        assert_eq!((content.bytes.as_slice(), content.size, content.is_cut()), (b"tw".as_slice(), 3, true));
    }
}
