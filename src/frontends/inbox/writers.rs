//! Who is writing: the files that some process has open for writing, as far as this user may see. It does not know what
//! the files are for.

use std::collections::HashSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

/// What tells one file from every other: device and inode.
pub type FileId = (u64, u64);

/// The identity of a file.
pub fn file_id(meta: &Metadata) -> FileId {
    (meta.dev(), meta.ino())
}

/// Which of `wanted` are open for writing right now. Processes of other users are not seen unless we are root.
pub fn written(wanted: &HashSet<FileId>) -> HashSet<FileId> {
    let mut found = HashSet::new();
    if wanted.is_empty() {
        return found;
    }
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        if !process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        for open in std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            // The link's own permissions say how the file was opened.
            let writes = open.metadata().is_ok_and(|link| link.mode() & 0o200 != 0);
            if writes && let Ok(meta) = std::fs::metadata(open.path()) {
                let id = file_id(&meta);
                if wanted.contains(&id) {
                    found.insert(id);
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_is_seen_and_a_reader_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let id = |name: &str| file_id(&dir.path().join(name).metadata().unwrap());
        let writer = std::fs::File::create(dir.path().join("written")).unwrap();
        std::fs::write(dir.path().join("read"), "x").unwrap();
        let _reader = std::fs::File::open(dir.path().join("read")).unwrap();
        let wanted = HashSet::from([id("written"), id("read")]);
        assert_eq!(written(&wanted), HashSet::from([id("written")]));
        drop(writer);
        assert!(written(&wanted).is_empty());
    }
}
