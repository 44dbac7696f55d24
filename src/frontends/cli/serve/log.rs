//! The daemon's own log: on standard error, and in `logs/` of the home, where old files make room for new ones. No line
//! leaves with a secret in it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::app::App;
use crate::error::Error;
use crate::secrets::Masker;

/// The file's name.
const FILE: &str = "devo.log";
/// A file of this size is put aside, in bytes.
const SIZE_MAX: u64 = 10 * 1024 * 1024;
/// Files that are kept, the present one not counted.
const KEPT: u32 = 4;

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// An object per line.
    Json,
}

/// Begins to log. `quiet` keeps standard error to warnings; the file has everything.
///
/// # Errors
/// The home's log file cannot be opened.
pub fn start(format: Format, verbose: u8, quiet: bool, app: &App) -> Result<(), Error> {
    let level = match (quiet, verbose) {
        (true, _) => "warn",
        (_, 0) => "devo=info,warn",
        (_, 1) => "devo=debug,info",
        _ => "trace",
    };
    let filter = || EnvFilter::try_from_env("DEVO_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let folder = app.home.join("logs");
    let rotating = Rotating::open(&folder, SIZE_MAX)
        .map_err(|error| Error::machine("logs", format!("cannot write {}", folder.join(FILE).display()), &error))?;
    let stderr = Masked { masker: app.masker(), open: Arc::new(|| Box::new(std::io::stderr())) };
    let rotating = Arc::new(Mutex::new(rotating));
    let file = Masked { masker: app.masker(), open: Arc::new(move || Box::new(Shared(rotating.clone()))) };
    let plain =
        |writer: Masked| tracing_subscriber::fmt::layer().with_ansi(false).with_target(false).with_writer(writer);
    let layers = match format {
        Format::Text => [plain(stderr).with_filter(filter()).boxed(), plain(file).with_filter(filter()).boxed()],
        Format::Json => {
            [plain(stderr).json().with_filter(filter()).boxed(), plain(file).json().with_filter(filter()).boxed()]
        }
    };
    // A second subscriber (in tests) changes nothing.
    let _ = tracing_subscriber::registry().with(Vec::from(layers)).try_init();
    Ok(())
}

/// Masks every line on its way to a writer.
struct Masked {
    masker: Masker,
    open: Arc<dyn Fn() -> Box<dyn Write + Send> + Send + Sync>,
}

struct MaskedWriter {
    masker: Masker,
    to: Box<dyn Write + Send>,
}

impl<'a> MakeWriter<'a> for Masked {
    type Writer = MaskedWriter;

    fn make_writer(&'a self) -> MaskedWriter {
        MaskedWriter { masker: self.masker.clone(), to: (self.open)() }
    }
}

impl Write for MaskedWriter {
    /// Gets one whole event.
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = self.masker.mask(&String::from_utf8_lossy(bytes));
        self.to.write_all(text.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

struct Shared(Arc<Mutex<Rotating>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no holder of this lock can panic").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A file that is put aside when it is large.
struct Rotating {
    path: PathBuf,
    file: File,
    size: u64,
    max: u64,
}

impl Rotating {
    fn open(folder: &Path, max: u64) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(FILE);
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { path, file, size, max })
    }

    fn aside(&self, number: u32) -> PathBuf {
        self.path.with_file_name(format!("{FILE}.{number}"))
    }

    fn turn(&mut self) -> std::io::Result<()> {
        for number in (1..KEPT).rev() {
            // Those that are not there yet cannot be moved.
            let _ = std::fs::rename(self.aside(number), self.aside(number + 1));
        }
        std::fs::rename(&self.path, self.aside(1))?;
        self.file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
        self.size = 0;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.size > 0 && self.size + bytes.len() as u64 > self.max {
            self.turn()?;
        }
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_log_is_put_aside_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Rotating::open(dir.path(), 10).unwrap();
        for number in 0..8 {
            log.write(format!("line {number}\n").as_bytes()).unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read(FILE), "line 7\n");
        assert_eq!(read("devo.log.1"), "line 6\n");
        assert_eq!(read("devo.log.4"), "line 3\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 5);
        drop(log);
        let mut again = Rotating::open(dir.path(), 100).unwrap();
        again.write(b"more\n").unwrap();
        assert_eq!(read(FILE), "line 7\nmore\n");
    }

    #[test]
    fn no_line_leaves_with_a_secret() {
        let dir = tempfile::tempdir().unwrap();
        let masker = Masker::default();
        masker.add(&secrecy::SecretString::from("sk-very-secret"));
        let shared = Arc::new(Mutex::new(Rotating::open(dir.path(), 1000).unwrap()));
        let masked = Masked { masker, open: Arc::new(move || Box::new(Shared(shared.clone()))) };
        masked.make_writer().write_all(b"key=sk-very-secret ok\n").unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join(FILE)).unwrap(), "key=*** ok\n");
    }
}
