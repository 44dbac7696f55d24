//! The lines that a run's steps left in `runs/<id>/logs/`, merged by time, for every way of showing them. It does not know
//! who looks.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use crate::core::id::StepId;
use crate::core::time::Timestamp;
use crate::engine::Line;
use crate::error::Error;

/// Longer lines are not ours.
const LINE_MAX: u64 = 64 * 1024;
/// How much of a file is read at once, from its end backwards.
const CHUNK: usize = 64 * 1024;
/// Files that are merged line by line; of more, each is told as a whole, in the order of their first lines.
const MERGED: usize = 200;

/// Reads the files of a run's log, each from where the last pass ended.
pub struct Reader {
    folder: PathBuf,
    step: Option<StepId>,
    offsets: BTreeMap<PathBuf, u64>,
}

/// The end of a log.
#[derive(Debug, Default, PartialEq)]
pub struct End {
    /// The last lines, oldest first.
    pub lines: Vec<Line>,
    /// How many lines have the time of the last one, those that are not among the lines too.
    pub same: u64,
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
            for path in self.in_order(&paths) {
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

    /// The last `limit` lines, as a pass over all of them would tell them; each file is read from its end, and no further than
    /// needed.
    ///
    /// # Errors
    /// A folder that cannot be read; one that is not there has no lines.
    pub fn end(&mut self, limit: usize) -> Result<End, Error> {
        let mut paths = self.paths()?;
        let merged = paths.len() <= MERGED;
        if !merged {
            paths = self.in_order(&paths);
            paths.reverse();
        }
        let (mut lines, mut newest, mut same) = (VecDeque::new(), None, 0);
        for path in paths {
            let oldest = lines.front().filter(|_| lines.len() >= limit).map(|line: &Line| line.at);
            if !merged && oldest.is_some() {
                break;
            }
            let tail = tail(&path, limit, oldest);
            let Some(last) = tail.back().map(|line| line.at) else { continue };
            let count = tail.iter().rev().take_while(|line| line.at == last).count() as u64;
            if newest.is_none_or(|newest| merged && newest < last) {
                (newest, same) = (Some(last), count);
            } else if merged && newest == Some(last) {
                same += count;
            }
            lines = if merged { merge(lines, tail) } else { tail.into_iter().chain(lines).collect() };
            lines.drain(..lines.len().saturating_sub(limit));
        }
        Ok(End { lines: lines.into(), same })
    }

    /// Files in the order of their first lines; those without one are left out.
    fn in_order(&mut self, paths: &[PathBuf]) -> Vec<PathBuf> {
        let mut order: Vec<(Timestamp, PathBuf)> =
            paths.iter().filter_map(|path| self.open(path)).map(|source| (source.next.at, source.path)).collect();
        order.sort();
        order.into_iter().map(|(_, path)| path).collect()
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

/// Two runs of lines as one; of lines of one time, those of the first come first.
fn merge(mut one: VecDeque<Line>, mut two: VecDeque<Line>) -> VecDeque<Line> {
    let mut both = VecDeque::with_capacity(one.len() + two.len());
    loop {
        let first = match (one.front(), two.front()) {
            (Some(a), Some(b)) => a.at <= b.at,
            (a, None) => a.is_some(),
            (None, Some(_)) => false,
        };
        match if first { one.pop_front() } else { two.pop_front() } {
            Some(line) => both.push_back(line),
            None => return both,
        }
    }
}

/// The last `limit` lines of a file, or fewer where the others are older than `oldest`; always all that have the time of the
/// last one. A half-written line at the end is left out, and so is whatever is not ours.
fn tail(path: &Path, limit: usize, oldest: Option<Timestamp>) -> VecDeque<Line> {
    let mut found: VecDeque<Line> = VecDeque::new();
    let Ok(mut file) = File::open(path) else { return found };
    let Ok(mut start) = file.seek(SeekFrom::End(0)) else { return found };
    // The beginning of what was read: the end of a line whose beginning was not. `None` where it is too long to be one, or
    // has no end yet.
    let mut rest: Option<Vec<u8>> = None;
    let mut chunk = vec![0; CHUNK];
    while start > 0 {
        let size = CHUNK.min(usize::try_from(start).unwrap_or(CHUNK));
        start -= size as u64;
        let chunk = &mut chunk[..size];
        if file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(chunk)).is_err() {
            return found;
        }
        let mut pieces = chunk.rsplit(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            let whole = rest.take().map(|rest| [piece, &rest].concat()).filter(|line| (line.len() as u64) < LINE_MAX);
            // The first piece of a chunk goes on before it, unless there is nothing before it.
            if pieces.peek().is_none() && start > 0 {
                rest = whole;
                break;
            }
            if let Some(line) = whole.and_then(|bytes| serde_json::from_slice::<Line>(&bytes).ok()) {
                let (last, at) = (found.back().map_or(line.at, |last| last.at), line.at);
                let enough = found.len() >= limit || oldest.is_some_and(|oldest| at < oldest);
                if enough && at < last {
                    return found;
                }
                found.push_front(line);
            }
            rest = Some(Vec::new());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
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

    /// The end as a pass over everything finds it.
    fn end_of_all(folder: &Path, limit: usize) -> End {
        let (mut lines, mut same) = (VecDeque::new(), 0);
        let mut reader = Reader::new(folder.to_owned(), None);
        let pass = reader.pass(|line| {
            same = if lines.back().is_some_and(|last: &Line| last.at == line.at) { same + 1 } else { 1 };
            lines.push_back(line.clone());
            true
        });
        pass.unwrap();
        lines.drain(..lines.len().saturating_sub(limit));
        End { lines: lines.into(), same }
    }

    #[test]
    fn the_end_is_that_of_a_pass_over_everything() {
        for files in [1, 3, MERGED + 3] {
            let dir = tempfile::tempdir().unwrap();
            let mut at = 0;
            let mut texts = vec![String::new(); files];
            for number in 0..3000 {
                let file = (number * 7919) % files;
                // Lines of one time are in one file: what comes first of two files is not said.
                at += i64::from(file != (number.max(1) - 1) * 7919 % files || number % 3 == 0);
                let text = "x".repeat(number % 700);
                texts[file].push_str(&line(&format!("s{file}"), at, &format!("{number} {text}")));
                match number % 50 {
                    7 => texts[file].push_str("not ours\n\n"),
                    31 if files < 9 => texts[file].push_str(&(line("s", at, &"y".repeat(70_000)))),
                    _ => {}
                }
            }
            for (file, text) in texts.iter_mut().enumerate() {
                // Some end in the middle of a line.
                if file % 2 == 0 {
                    text.push_str(&line("s", at + 1, "half")[..20]);
                }
                std::fs::write(dir.path().join(format!("s{file}.jsonl")), text).unwrap();
            }
            for limit in [1, 2, 120, 2_000, 10_000] {
                let end = Reader::new(dir.path().to_owned(), None).end(limit).unwrap();
                let wanted = end_of_all(dir.path(), limit);
                assert_eq!(end.lines, wanted.lines, "{files} files, {limit} lines");
                assert_eq!(end.same, wanted.same, "{files} files, {limit} lines");
            }
        }
        let nowhere = Reader::new(PathBuf::from("/nowhere"), None).end(5).unwrap();
        assert_eq!(nowhere, End::default());
    }

    #[test]
    fn lines_of_one_time_are_all_counted() {
        let dir = tempfile::tempdir().unwrap();
        let text: String = (0..5000).map(|number| line("a", 1 + number / 3000, "same")).collect();
        std::fs::write(dir.path().join("a.jsonl"), text).unwrap();
        std::fs::write(dir.path().join("b.jsonl"), line("b", 2, "same")).unwrap();
        let end = Reader::new(dir.path().to_owned(), None).end(10).unwrap();
        assert_eq!((end.lines.len(), end.same), (10, 2001));
    }

    #[test]
    fn what_is_before_the_end_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        // A hole of many gigabytes, which would take minutes to read.
        File::create(&path).unwrap().set_len(200 << 30).unwrap();
        let mut file = File::options().append(true).open(&path).unwrap();
        for number in 0..200 {
            std::io::Write::write_all(&mut file, format!("\n{}", line("a", number, "end")).as_bytes()).unwrap();
        }
        let end = Reader::new(dir.path().to_owned(), None).end(120).unwrap();
        assert_eq!((end.lines.len(), end.lines[0].at), (120, Timestamp(80)));
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
