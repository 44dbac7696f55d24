//! The files that the bot sends: made when they are sent, so that none waits in the journal.

use std::path::PathBuf;

use super::Bot;
use super::book::File;
use super::cards;
use super::words::words;
use crate::core::id::RunId;
use crate::error::Error;
use crate::frontends::lines::Reader;
use crate::frontends::words::Lang;

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
                let text = tokio::task::spawn_blocking(move || log(folder)).await;
                let text = text.map_err(|error| Error::bug(error.to_string()))??;
                let text = cut(text.into_bytes(), lang);
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

/// The kept lines of all steps, by time; of very long logs the end.
fn log(folder: PathBuf) -> Result<String, Error> {
    let mut text = String::new();
    Reader::new(folder, None).pass(|line| {
        if text.len() > 2 * FILE_MAX {
            let from = (text.len() - FILE_MAX..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.drain(..from);
        }
        text.push_str(&format!("{} {} {}\n", line.at, line.step, line.text));
        true
    })?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_what_is_too_large_is_kept() {
        assert_eq!(cut(b"abc".to_vec(), Lang::En), b"abc");
        let kept = cut(vec![b'x'; FILE_MAX + 5], Lang::Es);
        assert!(kept.len() < FILE_MAX + 100 && kept.starts_with("[se omitió".as_bytes()));
    }
}
