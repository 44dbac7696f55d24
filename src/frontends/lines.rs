//! The lines that a run's steps left in `runs/<id>/logs/`, merged by time, for every way of showing them. It does not know
//! who looks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use crate::core::id::StepId;
use crate::engine::Line;
use crate::error::Error;

/// Longer lines are not ours.
const LINE_MAX: u64 = 64 * 1024;
/// Files that are merged line by line; of more, each is told as a whole, in the order of their first lines.
const MERGED: usize = 200;

/// Reads the files of a run's log, each from where the last pass ended.
pub struct Reader {
    folder: PathBuf,
    step: Option<StepId>,
    offsets: BTreeMap<PathBuf, u64>,
}

/// A file with its next line.
struct Source {
    path: PathBuf,
    reader: BufReader<File>,
    offset: u64,
    next: Line,
}

impl Reader {
    /// A reader of a run's `logs` folder: of one step, or of all.
    pub fn new(folder: PathBuf, step: Option<StepId>) -> Self {
        Self { folder, step, offsets: BTreeMap::new() }
    }

    /// Tells every complete line that was not told, oldest first; stops when `tell` says so.
    ///
    /// # Errors
    /// A folder that cannot be read; one that is not there has no lines.
    pub fn pass(&mut self, mut tell: impl FnMut(&Line) -> bool) -> Result<(), Error> {
        let paths = self.paths()?;
        if paths.len() <= MERGED {
            let mut sources: Vec<Source> = paths.iter().filter_map(|path| self.open(path)).collect();
            while let Some(at) = (0..sources.len()).min_by_key(|at| sources[*at].next.at) {
                if !tell(&sources[at].next) {
                    return Ok(());
                }
                self.advance(&mut sources, at);
            }
        } else {
            let mut order: Vec<(crate::core::time::Timestamp, PathBuf)> =
                paths.iter().filter_map(|path| self.open(path)).map(|source| (source.next.at, source.path)).collect();
            order.sort();
            for (_, path) in order {
                let mut one: Vec<Source> = self.open(&path).into_iter().collect();
                while let Some(source) = one.first() {
                    if !tell(&source.next) {
                        return Ok(());
                    }
                    self.advance(&mut one, 0);
                }
            }
        }
        Ok(())
    }

    fn paths(&self) -> Result<Vec<PathBuf>, Error> {
        if let Some(step) = &self.step {
            return Ok(vec![self.folder.join(format!("{step}.jsonl"))]);
        }
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                let message = format!("cannot read {}", self.folder.display());
                return Err(Error::machine("logs", message, &error));
            }
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
        paths.sort();
        Ok(paths)
    }

    /// A file at its first line that was not told; `None` where there is no such line.
    fn open(&mut self, path: &Path) -> Option<Source> {
        let offset = self.offsets.get(path).copied().unwrap_or(0);
        let mut file = File::open(path).ok()?;
        file.seek(SeekFrom::Start(offset)).ok()?;
        let mut reader = BufReader::new(file);
        let mut offset = offset;
        let next = next_line(&mut reader, &mut offset)?;
        Some(Source { path: path.to_owned(), reader, offset, next })
    }

    /// Notes that a source's line was told, and moves it to the next one or away.
    fn advance(&mut self, sources: &mut Vec<Source>, at: usize) {
        let source = &mut sources[at];
        self.offsets.insert(source.path.clone(), source.offset);
        match next_line(&mut source.reader, &mut source.offset) {
            Some(line) => source.next = line,
            None => {
                sources.swap_remove(at);
            }
        }
    }
}

/// The next line that is one of ours; a half-written one at the end is left for the next pass.
fn next_line(reader: &mut BufReader<File>, offset: &mut u64) -> Option<Line> {
    loop {
        let mut bytes = Vec::new();
        let count = reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut bytes).ok()?;
        if count == 0 || (!bytes.ends_with(b"\n") && (count as u64) < LINE_MAX) {
            return None;
        }
        *offset += count as u64;
        if let Ok(line) = serde_json::from_slice(&bytes) {
            return Some(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::time::Timestamp;
    use crate::steps::Stream;

    fn line(step: &str, at: i64, text: &str) -> String {
        let step = StepId::new(step).unwrap();
        let line = Line { at: Timestamp(at), step, stream: Stream::Stdout, text: text.to_owned() };
        serde_json::to_string(&line).unwrap() + "\n"
    }

    fn told(reader: &mut Reader) -> String {
        let mut all = Vec::new();
        reader
            .pass(|line| {
                all.push(line.text.clone());
                true
            })
            .unwrap();
        all.join(" ")
    }

    #[test]
    fn lines_are_merged_by_time_and_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("a.jsonl"), line("a", 1, "a1") + "not ours\n" + &line("a", 4, "a4")).unwrap();
        std::fs::write(path("b.jsonl"), line("b", 2, "b2") + &line("b", 3, "b3")).unwrap();
        let mut reader = Reader { folder: dir.path().to_owned(), step: None, offsets: BTreeMap::new() };
        assert_eq!(told(&mut reader), "a1 b2 b3 a4");
        assert_eq!(told(&mut reader), "");
        // Half a line is not told until it is whole.
        let more = line("b", 5, "b5");
        let mut text = std::fs::read_to_string(path("b.jsonl")).unwrap();
        text.push_str(&more[..10]);
        std::fs::write(path("b.jsonl"), &text).unwrap();
        assert_eq!(told(&mut reader), "");
        text.push_str(&more[10..]);
        std::fs::write(path("b.jsonl"), &text).unwrap();
        assert_eq!(told(&mut reader), "b5");
        let mut one = Reader { step: Some(StepId::new("a").unwrap()), offsets: BTreeMap::new(), ..reader };
        assert_eq!(told(&mut one), "a1 a4");
    }

    #[test]
    fn ten_thousand_files_need_no_ten_thousand_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..1500 {
            let step = format!("s{number}");
            std::fs::write(dir.path().join(format!("{step}.jsonl")), line(&step, 2000 - number, "x")).unwrap();
        }
        let mut reader = Reader { folder: dir.path().to_owned(), step: None, offsets: BTreeMap::new() };
        let mut last = i64::MIN;
        let mut count = 0;
        reader
            .pass(|line| {
                assert!(line.at.0 > last);
                last = line.at.0;
                count += 1;
                true
            })
            .unwrap();
        assert_eq!(count, 1500);
    }
}
