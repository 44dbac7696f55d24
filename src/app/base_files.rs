//! The files of a run's base commit, for whoever makes its container: what a person approved, not what a command has
//! written since. Read out of git's objects; nothing is checked out.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::sandboxes::docker::Source;
use crate::sandboxes::docker::image::SourceFile;
use crate::steps::repo::Repo;
use crate::workspace::{Error, FileKind, TreeView};

/// More than this is no build context but a mistake, in bytes.
const CONTEXT_MAX: u64 = 512 << 20;

/// The base commit of a run.
pub struct BaseFiles {
    repo: Option<Repo>,
    run_dir: PathBuf,
    view: OnceLock<TreeView>,
}

impl BaseFiles {
    /// Nothing is read yet. A run without a repository has no files.
    pub fn new(repo: Option<Repo>, run_dir: PathBuf) -> Self {
        Self { repo, run_dir, view: OnceLock::new() }
    }

    /// The tree: that of the run's own base once it has a workspace, else that of the branch which it will start from.
    fn view(&self) -> Result<&TreeView, String> {
        if let Some(view) = self.view.get() {
            return Ok(view);
        }
        let repo = self.repo.as_ref().ok_or("the run has no repository")?;
        let open = || -> Result<TreeView, Error> {
            let store = repo.store(&|| false)?;
            let base = match repo.worktree(&self.run_dir, &|| false) {
                Ok(worktree) => worktree.base(),
                Err(_) => store.resolve_base(repo.base.as_deref())?.commit,
            };
            store.view(base)
        };
        let view = open().map_err(|error| error.to_failure().message)?;
        Ok(self.view.get_or_init(|| view))
    }

    fn read(&self, view: &TreeView, path: &str) -> Result<Vec<u8>, String> {
        view.read(path, usize::MAX).map(|content| content.bytes).map_err(|error| error.to_failure().message)
    }
}

impl Source for BaseFiles {
    fn files(&self, folder: &str) -> Result<Vec<SourceFile>, String> {
        let view = self.view()?;
        let prefix = if folder.is_empty() { String::new() } else { format!("{}/", folder.trim_end_matches('/')) };
        let files = view.files().map_err(|error| error.to_failure().message)?;
        let wanted: Vec<_> = files
            .iter()
            .filter(|file| file.kind != FileKind::Submodule)
            .filter_map(|file| Some((file, file.path.strip_prefix(&prefix)?)))
            .collect();
        if wanted.is_empty() {
            return Err("there is no such folder".to_owned());
        }
        if wanted.iter().map(|(file, _)| file.size).sum::<u64>() > CONTEXT_MAX {
            return Err(format!("its files have more than {} MiB: name a smaller folder", CONTEXT_MAX >> 20));
        }
        let read = |(file, path): (&crate::workspace::TreeFile, &str)| {
            Ok(SourceFile {
                path: path.to_owned(),
                content: self.read(view, &file.path)?,
                executable: file.kind == FileKind::Executable,
                link: file.kind == FileKind::Link,
            })
        };
        wanted.into_iter().map(read).collect()
    }

    fn file(&self, path: &str) -> Result<Vec<u8>, String> {
        self.read(self.view()?, path.trim_start_matches("./"))
    }
}
