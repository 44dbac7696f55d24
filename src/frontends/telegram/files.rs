//! The files that the bot sends: made when they are sent, so that none waits in the journal.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::Bot;
use super::book::File;
use super::cards;
use super::words::words;
use crate::core::id::RunId;
use crate::engine::Line;
use crate::error::Error;
use crate::frontends::words::Lang;

/// The most that is sent of one step's log, in bytes, from its end.
const STEP_MAX: u64 = 2 * 1024 * 1024;
/// The most that is sent of a log or a diff, in bytes; Telegram takes 50 MB.
const FILE_MAX: usize = 16 * 1024 * 1024;

impl Bot {
    /// A file's name and content; `None` where there is nothing (any more).
    pub(super) async fn make_file(&self, of: &File, lang: Lang) -> Result<Option<(String, Vec<u8>)>, Error> {
        Ok(match of {
            File::Plan { run, hash } => {
                let doc = self.desk.document(*run).await?;
                let plan = cards::plan_of(&doc).filter(|plan| plan.hash == *hash);
                plan.map(|plan| {
                    let name = format!("plan-{}-r{}.md", run.short(), plan.revision);
                    (name, cards::plan_file(&plan, lang).into_bytes())
                })
            }
            File::Diff { run } => {
                let patch = self.desk.app.diff(*run).await?;
                let patch = cut(patch.into_bytes(), lang);
                (!patch.is_empty()).then(|| (format!("changes-{}.patch", run.short()), patch))
            }
            File::Log { run } => {
                let folder = self.desk.app.run_dir(*run).join("logs");
                let text = tokio::task::spawn_blocking(move || log(&folder)).await;
                let text = cut(text.map_err(|error| Error::bug(error.to_string()))?.into_bytes(), lang);
                (!text.is_empty()).then(|| (log_name(*run), text))
            }
        })
    }
}

fn log_name(run: RunId) -> String {
    format!("log-{}.txt", run.short())
}

/// Keeps the end.
fn cut(bytes: Vec<u8>, lang: Lang) -> Vec<u8> {
    if bytes.len() <= FILE_MAX {
        return bytes;
    }
    let mut kept = format!("{}\n", words(lang).cut).into_bytes();
    kept.extend_from_slice(&bytes[bytes.len() - FILE_MAX..]);
    kept
}

/// The kept lines of all steps, by time.
fn log(folder: &Path) -> String {
    let mut lines: Vec<Line> = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "jsonl")
            && let Ok(text) = tail(&path)
        {
            lines.extend(text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok()));
        }
    }
    lines.sort_by_key(|line| line.at);
    lines.iter().map(|line| format!("{} {} {}\n", line.at, line.step, line.text)).collect()
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    if size > STEP_MAX {
        file.seek(SeekFrom::Start(size - STEP_MAX))?;
    }
    let mut bytes = Vec::new();
    file.take(STEP_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_all_steps_come_in_order_and_halves_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let line = |at: &str, step: &str, text: &str| {
            format!("{{\"at\":\"{at}\",\"step\":\"{step}\",\"stream\":\"stdout\",\"text\":\"{text}\"}}\n")
        };
        let one = line("2026-11-25T10:00:00.000Z", "plan", "one") + &line("2026-11-25T10:00:02.000Z", "plan", "three");
        std::fs::write(dir.path().join("plan.jsonl"), one + "{\"at\":\"2026").unwrap();
        std::fs::write(dir.path().join("test.jsonl"), line("2026-11-25T10:00:01.000Z", "test", "two")).unwrap();
        std::fs::write(dir.path().join("other"), "no").unwrap();
        let text = log(dir.path());
        let words: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next_back()).collect();
        assert_eq!(words, ["one", "two", "three"]);
        assert_eq!(log(&dir.path().join("none")), "");
    }
}
