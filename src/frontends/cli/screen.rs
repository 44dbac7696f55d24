//! Text on a terminal: colours, widths, wrapping, and the two streams. It does not know what the text is about.

use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::secrets::printable;

/// Where nothing says how wide the screen is.
const WIDTH: usize = 100;
/// Wider paragraphs are hard to read.
const WIDEST: usize = 120;
/// Narrower ones are not worth wrapping well.
const NARROWEST: usize = 40;

/// A way to set words apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// Headings and names.
    Bold,
    /// What matters less.
    Dim,
    /// Failures.
    Red,
    /// Success.
    Green,
    /// What needs a person.
    Yellow,
    /// Work in progress.
    Cyan,
}

impl Ink {
    fn style(self) -> anstyle::Style {
        use anstyle::AnsiColor;
        let style = anstyle::Style::new();
        match self {
            Self::Bold => style.bold(),
            Self::Dim => style.dimmed(),
            Self::Red => style.fg_color(Some(AnsiColor::Red.into())).bold(),
            Self::Green => style.fg_color(Some(AnsiColor::Green.into())),
            Self::Yellow => style.fg_color(Some(AnsiColor::Yellow.into())).bold(),
            Self::Cyan => style.fg_color(Some(AnsiColor::Cyan.into())),
        }
    }
}

/// What a text is laid out for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    /// Whether colours are shown.
    pub color: bool,
    /// Columns.
    pub width: usize,
}

impl Screen {
    /// Sets words apart, where colours are shown.
    pub fn paint(&self, ink: Ink, text: &str) -> String {
        if !self.color || text.is_empty() {
            return text.to_owned();
        }
        let style = ink.style();
        format!("{style}{text}{style:#}")
    }

    /// Foreign text as lines that fit, each behind `indent` (the first behind `first`, of the same width).
    pub fn paragraph(&self, first: &str, indent: &str, text: &str) -> String {
        let room = self.width.saturating_sub(indent.width()).max(20);
        let mut out = String::new();
        let mut lead = first;
        for line in text.trim_end().lines() {
            for part in wrap(&printable(line), room) {
                out.push_str(lead);
                out.push_str(&part);
                while out.ends_with(' ') {
                    out.pop();
                }
                out.push('\n');
                lead = indent;
            }
        }
        out
    }

    /// One line of foreign text, cut to `room` columns.
    pub fn clip(&self, text: &str, room: usize) -> String {
        clip(&printable(text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default()), room)
    }
}

/// Cuts to `room` columns, with a mark.
pub fn clip(text: &str, room: usize) -> String {
    if text.width() <= room {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 1; // of the mark
    for char in text.chars() {
        used += char.width().unwrap_or(0);
        if used > room {
            break;
        }
        out.push(char);
    }
    out.truncate(out.trim_end().len());
    out.push('…');
    out
}

/// Fills to `room` columns.
pub fn pad(text: &str, room: usize) -> String {
    format!("{text}{}", " ".repeat(room.saturating_sub(text.width())))
}

/// Breaks a line at spaces; a word that is too long is broken anywhere. Leading spaces stay.
fn wrap(line: &str, room: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut current = String::new();
    let mut used = 0;
    for word in line.split_inclusive(' ') {
        let bare = word.trim_end_matches(' ');
        if used + bare.width() > room && used > 0 {
            lines.push(std::mem::take(&mut current));
            used = 0;
        }
        if bare.width() > room {
            for char in word.chars() {
                let wide = char.width().unwrap_or(0);
                if used + wide > room {
                    lines.push(std::mem::take(&mut current));
                    used = 0;
                }
                current.push(char);
                used += wide;
            }
        } else {
            current.push_str(word);
            used += word.width();
        }
    }
    lines.push(current);
    lines
}

/// Why standard output took no more, where it was not its reader who left: a full disk. The process has one.
static LOST: OnceLock<String> = OnceLock::new();

/// Why something of the result was lost, if it was.
pub fn lost() -> Option<&'static str> {
    LOST.get().map(String::as_str)
}

/// A stream of the program, for text.
#[derive(Debug)]
pub struct Out {
    /// What it is laid out for.
    pub screen: Screen,
    /// Whether a person looks at it.
    pub terminal: bool,
    sink: Sink,
    closed: AtomicBool,
}

#[derive(Debug)]
enum Sink {
    Stdout,
    Stderr,
    #[cfg(test)]
    Memory(std::sync::Mutex<String>),
}

impl Out {
    /// Standard output.
    pub fn stdout(color: Option<bool>) -> Self {
        Self::new(std::io::stdout().is_terminal(), color, Sink::Stdout)
    }

    /// Standard error.
    pub fn stderr(color: Option<bool>) -> Self {
        Self::new(std::io::stderr().is_terminal(), color, Sink::Stderr)
    }

    /// Keeps what is written.
    #[cfg(test)]
    pub fn memory() -> Self {
        let screen = Screen { color: false, width: WIDTH };
        Self {
            screen,
            terminal: false,
            sink: Sink::Memory(std::sync::Mutex::default()),
            closed: AtomicBool::new(false),
        }
    }

    /// What was written.
    #[cfg(test)]
    pub fn text(&self) -> String {
        match &self.sink {
            Sink::Memory(kept) => kept.lock().unwrap().clone(),
            _ => panic!("not kept"),
        }
    }

    fn new(terminal: bool, color: Option<bool>, sink: Sink) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let color = color.unwrap_or(terminal && !dumb);
        let width = if terminal { columns().unwrap_or(WIDTH).clamp(NARROWEST, WIDEST) } else { WIDTH };
        Self { screen: Screen { color, width }, terminal, sink, closed: AtomicBool::new(false) }
    }

    /// Writes; a reader that has gone (`devo logs … | head`) is not an error, and nothing more is written to it. Any other
    /// failure of standard output is kept for the end: see [`lost`].
    pub fn write(&self, text: &str) {
        if self.closed() {
            return;
        }
        let write = |stream: &mut dyn std::io::Write| stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
        let result = match &self.sink {
            Sink::Stdout => write(&mut std::io::stdout().lock()),
            Sink::Stderr => write(&mut std::io::stderr().lock()),
            #[cfg(test)]
            Sink::Memory(kept) => {
                kept.lock().unwrap().push_str(text);
                Ok(())
            }
        };
        if let Err(error) = result {
            if matches!(self.sink, Sink::Stdout) && error.kind() != std::io::ErrorKind::BrokenPipe {
                LOST.get_or_init(|| error.to_string());
            }
            self.closed.store(true, Ordering::Relaxed);
        }
    }

    /// Writes a line.
    pub fn line(&self, text: &str) {
        self.write(&format!("{text}\n"));
    }

    /// Whether nobody reads it any more.
    pub fn closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

fn columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stderr())
        .or_else(|_| rustix::termios::tcgetwinsize(std::io::stdout()))
        .ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// What the flags and the environment say about colours; `None` leaves it to the stream.
pub fn color_choice(flag: bool, env: impl Fn(&str) -> Option<String>) -> Option<bool> {
    let set = |name: &str| env(name).is_some_and(|value| !value.is_empty());
    if flag || set("NO_COLOR") {
        return Some(false);
    }
    (set("CLICOLOR_FORCE") && env("CLICOLOR_FORCE").as_deref() != Some("0")).then_some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_fit_and_cannot_steer_the_terminal() {
        let screen = Screen { color: false, width: 40 };
        let text = "Añade la validación de stock negativo en ventas\u{1b}[2J y 表示幅の広い文字も数える";
        let shown = screen.paragraph("- ", "  ", text);
        assert!(shown.lines().all(|line| line.width() <= 40), "{shown}");
        assert!(shown.starts_with("- Añade"));
        assert!(!shown.contains('\u{1b}'));
        let long = "x".repeat(95);
        assert_eq!(screen.paragraph("", "", &long).lines().count(), 3);
    }

    #[test]
    fn code_keeps_its_indent() {
        let screen = Screen { color: false, width: 60 };
        assert_eq!(screen.paragraph("| ", "| ", "a:\n    b"), "| a:\n|     b\n");
    }

    #[test]
    fn clipped_text_says_so_and_fits() {
        assert_eq!(clip("abcdef", 6), "abcdef");
        assert_eq!(clip("abcdefg", 6), "abcde…");
        assert_eq!(clip("幅の広い", 5), "幅の…");
    }

    #[test]
    fn the_flag_beats_the_environment() {
        let env = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        assert_eq!(color_choice(false, env(&[])), None);
        assert_eq!(color_choice(false, env(&[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")])), Some(false));
        assert_eq!(color_choice(false, env(&[("NO_COLOR", ""), ("CLICOLOR_FORCE", "1")])), Some(true));
        assert_eq!(color_choice(true, env(&[("CLICOLOR_FORCE", "1")])), Some(false));
    }
}
