//! The files of this repository that every home starts with, embedded in the binary.

use rust_embed::Embed;

#[derive(Embed)]
#[folder = "ai"]
#[prefix = "ai/"]
struct Prompts;

#[derive(Embed)]
#[folder = "pipelines"]
#[prefix = "pipelines/"]
struct Pipelines;

#[derive(Embed)]
#[folder = "schemas"]
#[prefix = "schemas/"]
#[allow_missing = true]
struct Schemas;

/// Every shipped file: its path in a home, and its bytes.
pub fn files() -> Vec<(String, Vec<u8>)> {
    fn of<E: Embed>() -> impl Iterator<Item = (String, Vec<u8>)> {
        E::iter().filter_map(|name| E::get(&name).map(|file| (name.into_owned(), file.data.into_owned())))
    }
    of::<Prompts>().chain(of::<Pipelines>()).chain(of::<Schemas>()).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn embedded_and_committed_files_are_the_same() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut embedded = files();
        embedded.sort();
        let mut committed = Vec::new();
        let mut folders: Vec<_> = ["ai", "pipelines", "schemas"].map(|name| root.join(name)).into();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                    committed.push((name, std::fs::read(&path).unwrap()));
                }
            }
        }
        committed.sort();
        assert!(committed.iter().any(|(name, _)| name == "pipelines/dev-task.yaml"));
        assert_eq!(embedded, committed);
    }
}
