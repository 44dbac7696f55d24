//! Asks a person at the terminal: the plan's approval, a question, more budget. It returns what they said; sending it is
//! someone else's work.

use std::io::{BufRead, Write as _};
use std::sync::{Arc, Mutex};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::screen::{Ink, Out};
use super::show;
use crate::core::plan::PlanRecord;
use crate::core::request::{Signal, TEXT_MAX};
use crate::error::Error;

/// Lines that one feedback may have.
const LINES_MAX: usize = 2_000;

/// What a person wants.
#[derive(Debug, Clone, PartialEq)]
pub enum Wish {
    /// Send this.
    Send(Signal),
    /// Leave it waiting.
    Leave,
}

/// Lines that a person types. One thread reads, and only while a line is asked for, so that an editor can have the terminal.
///
/// What is typed answers the question that stands on the screen while it is typed: each line is marked with the number of
/// that question, and [`Lines::begin`] throws away what was typed before.
pub struct Lines {
    ask: std::sync::mpsc::Sender<()>,
    lines: mpsc::UnboundedReceiver<(u64, Option<String>)>,
    asked: bool,
    /// The present question. Its lock is held while what is there is read, and while it is thrown away.
    question: Arc<Mutex<u64>>,
    forget: fn(),
}

impl Lines {
    /// Of standard input.
    pub fn stdin() -> Self {
        let forget = || {
            // What is no terminal has nothing pending that anybody typed.
            let _ = rustix::termios::tcflush(rustix::stdio::stdin(), rustix::termios::QueueSelector::IFlush);
        };
        Self::read(typed, || part(&mut std::io::stdin().lock()), forget)
    }

    /// Of whatever gives them. `ready` says whether there is something to read, and waits for it where it is told to; `next`
    /// reads it without waiting: a line, or a part of one; `None` at the end.
    fn read(
        mut ready: impl FnMut(bool) -> bool + Send + 'static,
        mut next: impl FnMut() -> Option<Vec<u8>> + Send + 'static,
        forget: fn(),
    ) -> Self {
        let (ask, asked) = std::sync::mpsc::channel::<()>();
        let (sender, lines) = mpsc::unbounded_channel();
        let question = Arc::new(Mutex::new(0));
        let present = question.clone();
        std::thread::spawn(move || {
            while asked.recv().is_ok() {
                let (mut of, mut bytes) = (0, Vec::new());
                let line = loop {
                    ready(true);
                    let question = present.lock().expect("no holder of this lock can panic");
                    // It may have been thrown away meanwhile.
                    if !ready(false) {
                        continue;
                    }
                    if of != *question {
                        (of, bytes) = (*question, Vec::new());
                    }
                    // The beginning of a line before a hang-up is not what its sender meant to say.
                    let Some(part) = next() else { break None };
                    bytes.extend(part);
                    // A terminal's line is short; whatever else stands behind standard input is bounded.
                    if bytes.ends_with(b"\n") || bytes.len() > TEXT_MAX {
                        break Some(String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned());
                    }
                };
                if sender.send((of, line)).is_err() {
                    return;
                }
            }
        });
        Self { ask, lines, asked: false, question, forget }
    }

    /// Begins a question: what was typed before it answers nothing.
    fn begin(&self) {
        let mut question = self.question.lock().expect("no holder of this lock can panic");
        (self.forget)();
        *question += 1;
    }

    /// The next line that was typed since the question began; `None` at the end of input.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            if !self.asked {
                self.ask.send(()).ok()?;
                self.asked = true;
            }
            let (question, line) = self.lines.recv().await?;
            self.asked = false;
            let present = *self.question.lock().expect("no holder of this lock can panic");
            // The end of input is the end for every question.
            if question == present || line.is_none() {
                return line;
            }
        }
    }
}

/// Whether standard input has something to read; a terminal has where a line is finished. Waits for it where it is told to.
fn typed(wait: bool) -> bool {
    let stdin = rustix::stdio::stdin();
    let mut asked = [PollFd::new(&stdin, PollFlags::IN)];
    let limit = (!wait).then(Timespec::default);
    // An error is for the read to report.
    rustix::event::poll(&mut asked, limit.as_ref()).map_or_else(|error| error != Errno::INTR, |ready| ready > 0)
}

/// What is there of a line, to its end at most; `None` at the end of input.
fn part(input: &mut impl BufRead) -> Option<Vec<u8>> {
    let found = match input.fill_buf() {
        Ok([]) => return None,
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Some(Vec::new()),
        Err(_) => return None,
    };
    let end = found.iter().position(|byte| *byte == b'\n').map_or(found.len(), |at| at + 1);
    let part = found[..end].to_vec();
    input.consume(end);
    Some(part)
}

/// What became of a question for feedback.
#[derive(Debug, PartialEq)]
enum Feedback {
    Written(String),
    Nothing,
    /// The input ended before the text did.
    CutOff,
}

/// Shows the plan and asks what to do with it.
pub async fn about_plan(out: &Out, lines: &mut Lines, plan: &PlanRecord) -> Result<Wish, Error> {
    let screen = &out.screen;
    out.line("");
    out.write(&show::plan(screen, plan));
    lines.begin();
    loop {
        let keys = format!(
            "\n{} [a]pprove  [r]evise  re[j]ect  [q]uit, leave it waiting > ",
            screen.paint(Ink::Yellow, &format!("Revision {}?", plan.revision))
        );
        out.write(&keys);
        let Some(line) = lines.next().await else {
            out.line("");
            return Ok(Wish::Leave);
        };
        match line.trim().to_lowercase().as_str() {
            "a" | "approve" => return Ok(Wish::Send(Signal::Approve { plan_hash: plan.hash.clone(), note: None })),
            "r" | "revise" => match feedback(out, lines).await? {
                Feedback::Written(text) => return Ok(Wish::Send(Signal::Revise { text })),
                Feedback::Nothing => out.line("nothing was written; the plan stays as it is"),
                Feedback::CutOff => {
                    out.line(
                        "\nthe input ended before an empty line did: nothing was sent, and the plan stays as it is",
                    );
                    return Ok(Wish::Leave);
                }
            },
            "j" | "reject" => {
                out.write("This ends the run. A word why (empty to keep it short, `no` to go back) > ");
                match lines.next().await {
                    None => return Ok(Wish::Leave),
                    Some(text) if text.trim().eq_ignore_ascii_case("no") => {}
                    Some(text) => {
                        let note = (!text.trim().is_empty()).then(|| text.trim().to_owned());
                        return Ok(Wish::Send(Signal::Reject { note }));
                    }
                }
            }
            "q" | "quit" => return Ok(Wish::Leave),
            _ => out.line("type a, r, j or q, then Enter"),
        }
    }
}

/// Asks a step's question, or for more budget.
pub async fn about_question(out: &Out, lines: &mut Lines, question: &str) -> Wish {
    out.line("");
    out.write(&out.screen.paragraph("? ", "  ", question));
    lines.begin();
    out.write("Answer (an empty line leaves it waiting) > ");
    match lines.next().await {
        Some(text) if !text.trim().is_empty() => Wish::Send(Signal::Answer { text: text.trim().to_owned() }),
        Some(_) => Wish::Leave,
        None => {
            out.line("");
            Wish::Leave
        }
    }
}

/// Feedback of several lines, or from an editor.
async fn feedback(out: &Out, lines: &mut Lines) -> Result<Feedback, Error> {
    let editor = ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok()).filter(|text| !text.is_empty());
    let how = match &editor {
        Some(_) => "What should change? End with an empty line; an empty first line opens your editor.",
        None => "What should change? End with an empty line.",
    };
    out.line(how);
    let mut text = String::new();
    for number in 0..LINES_MAX {
        out.write("> ");
        match lines.next().await {
            Some(line) if line.trim().is_empty() => {
                if number == 0
                    && let Some(editor) = editor
                {
                    text = edit(&editor)?;
                }
                break;
            }
            Some(line) => {
                text.push_str(&line);
                text.push('\n');
            }
            None => return Ok(Feedback::CutOff),
        }
    }
    let text = text.trim().to_owned();
    Ok(if text.is_empty() { Feedback::Nothing } else { Feedback::Written(text) })
}

/// Opens the person's editor on an empty file; lines that begin with `#` do not count.
fn edit(editor: &str) -> Result<String, Error> {
    let failed = |error: &std::io::Error| Error::machine("editor", format!("cannot use the editor `{editor}`"), error);
    let mut file =
        tempfile::Builder::new().prefix("devo-feedback-").suffix(".md").tempfile().map_err(|error| failed(&error))?;
    file.write_all(b"\n# What should the plan do differently? Lines that begin with # do not count.\n")
        .map_err(|error| failed(&error))?;
    // The variable may hold arguments; that is its custom. The path goes beside it, never into the text.
    let status = std::process::Command::new("sh")
        .arg("-c")
        .arg(format!("{editor} \"$1\""))
        .arg("sh")
        .arg(file.path())
        .status()
        .map_err(|error| failed(&error))?;
    if !status.success() {
        return Ok(String::new());
    }
    // Read by path: many editors replace the file.
    let text = std::fs::read(file.path()).map_err(|error| failed(&error))?;
    let text = String::from_utf8_lossy(&text[..text.len().min(TEXT_MAX)]).into_owned();
    Ok(text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::plan::{Estimate, Plan};

    /// What someone who types this, and then is gone, has said about a plan.
    async fn said(typed: &'static [u8]) -> (Wish, String) {
        let mut input = std::io::Cursor::new(typed);
        let mut lines = Lines::read(|_| true, move || part(&mut input), || ());
        let plan: Plan =
            serde_json::from_value(serde_json::json!({"title": "A plan", "summary": "", "steps": [], "criteria": []}))
                .unwrap();
        let plan = PlanRecord::new(plan, Estimate::default(), 1, "abc".into(), "sha256:0");
        let out = Out::memory();
        let wish = about_plan(&out, &mut lines, &plan).await.unwrap();
        (wish, out.text())
    }

    #[tokio::test]
    async fn feedback_that_is_cut_off_is_not_sent() {
        for typed in [&b"r\ndo not dele"[..], b"r\ndo not delete\n", b"r\ndo not delete\n  and kee", b"r\n", b"r"] {
            let (wish, text) = said(typed).await;
            assert_eq!(wish, Wish::Leave, "{:?}", String::from_utf8_lossy(typed));
            assert_eq!(text.contains("nothing was sent"), typed != b"r", "{text}");
        }
        let (wish, _) = said(b"r\ndo not delete\nanything\n\n").await;
        assert_eq!(wish, Wish::Send(Signal::Revise { text: "do not delete\nanything".to_owned() }));
    }

    #[tokio::test]
    async fn half_a_reason_or_half_an_answer_is_not_sent() {
        assert_eq!(said(b"j\nbecau").await.0, Wish::Leave);
        assert_eq!(said(b"j\nbecause\n").await.0, Wish::Send(Signal::Reject { note: Some("because".to_owned()) }));
        for (typed, wanted) in
            [(&b"the fir"[..], Wish::Leave), (b"one\n", Wish::Send(Signal::Answer { text: "one".into() }))]
        {
            let mut input = std::io::Cursor::new(typed);
            let mut lines = Lines::read(|_| true, move || part(&mut input), || ());
            assert_eq!(about_question(&Out::memory(), &mut lines, "Which?").await, wanted);
        }
    }

    #[tokio::test]
    async fn what_was_typed_for_one_plan_says_nothing_of_the_next() {
        let (typed, typing) = std::sync::mpsc::channel::<&[u8]>();
        let typing = Mutex::new(typing);
        let (read, was_read) = std::sync::mpsc::channel();
        let next = move || {
            let line = typing.lock().unwrap().recv().ok().map(<[u8]>::to_vec);
            read.send(()).unwrap();
            line
        };
        let mut lines = Lines::read(|_| true, next, || ());
        lines.begin();
        // Asked, and answered elsewhere: nobody waits for the line any more.
        tokio::select! {
            biased;
            line = lines.next() => panic!("{line:?}"),
            () = std::future::ready(()) => {}
        }
        typed.send(b"a\n").unwrap();
        was_read.recv().unwrap();
        lines.begin();
        typed.send(b"q\n").unwrap();
        assert_eq!(lines.next().await.as_deref(), Some("q"));
        drop(typed);
        assert_eq!(lines.next().await, None);
    }
}
