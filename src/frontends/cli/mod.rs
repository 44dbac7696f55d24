//! The command line: a command is one file and one word in [`COMMANDS`].
//!
//! Results go to standard output; progress, prompts and notes go to standard error.

mod abort;
mod answer;
mod approve;
mod ask;
mod completions;
mod demo;
mod desktop;
mod diff;
mod doctor;
mod drive;
mod follow;
mod gc;
mod graph;
mod hands;
mod help;
mod init;
mod login_link;
mod logs;
mod plan;
mod progress;
mod prompt;
mod reject;
mod remote;
mod resume;
mod retry;
mod revise;
mod run;
mod schema;
mod screen;
mod serve;
mod show;
mod shown;
mod signal;
mod status;
mod submit;
mod task;
mod user;
mod validate;

use std::ffi::OsString;
use std::future::Future;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches, value_parser};

use crate::app::{App, Places, Settings};
use crate::error::{Error, Exit};
use screen::Out;

/// Every command, in the order in which the help shows them.
const COMMANDS: &[Entry] = &[
    demo::ENTRY,
    init::ENTRY,
    doctor::ENTRY,
    run::ENTRY,
    submit::ENTRY,
    resume::ENTRY,
    retry::ENTRY,
    serve::ENTRY,
    plan::ENTRY,
    approve::ENTRY,
    revise::ENTRY,
    reject::ENTRY,
    answer::ENTRY,
    abort::ENTRY,
    status::ENTRY,
    logs::ENTRY,
    diff::ENTRY,
    validate::ENTRY,
    graph::ENTRY,
    schema::ENTRY,
    prompt::ENTRY,
    login_link::ENTRY,
    user::ENTRY,
    gc::ENTRY,
    completions::ENTRY,
    help::ENTRY,
];

/// The daemon's command.
const SERVE: &str = "serve";

/// What a command belongs to, in the help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    Start,
    Work,
    Decide,
    Look,
    Write,
    Upkeep,
}

const GROUPS: &[(Group, &str)] = &[
    (Group::Start, "Start"),
    (Group::Work, "Work"),
    (Group::Decide, "Decide"),
    (Group::Look, "Look"),
    (Group::Write, "Write pipelines"),
    (Group::Upkeep, "Upkeep"),
];

/// A command.
struct Entry {
    /// Its word.
    name: &'static str,
    group: Group,
    /// One line.
    about: &'static str,
    /// Lines of the form `command    what it does`.
    examples: &'static str,
    /// Adds its arguments.
    augment: fn(Command) -> Command,
    run: fn(&Cx, &ArgMatches) -> Result<Exit, Error>,
}

/// A command without arguments of its own.
fn plain(command: Command) -> Command {
    command
}

/// The arguments of a command as its struct.
fn parsed<A: FromArgMatches>(matches: &ArgMatches) -> Result<A, Error> {
    A::from_arg_matches(matches).map_err(|error| Error::bug(error.to_string()))
}

/// What every command may use.
pub struct Cx {
    /// Where the home is looked for.
    pub settings: Settings,
    /// `--json`.
    pub json: bool,
    /// `-q`.
    pub quiet: bool,
    /// How many `-v`.
    pub verbose: u8,
    /// Whether a person may be asked.
    pub input: bool,
    /// How commands that are shown begin: `devo`, with the home where it was given as a flag.
    pub devo: String,
    /// For results.
    pub out: Out,
    /// For everything else.
    pub err: Out,
}

impl Cx {
    /// The same program, looking at another home.
    pub fn at(&self, settings: Settings) -> Self {
        let (out, err) = (Out::stdout(Some(self.out.screen.color)), Out::stderr(Some(self.err.screen.color)));
        let devo = program(settings.places.explicit.as_deref());
        Self { settings, devo, json: self.json, quiet: self.quiet, verbose: self.verbose, input: self.input, out, err }
    }

    fn new(matches: &ArgMatches) -> Self {
        let color = screen::color_choice(matches.get_flag("no-color"), |name| std::env::var(name).ok());
        let home = matches.get_one::<PathBuf>("home").cloned();
        // The environment stays as it is for the next command; a flag has to be said again.
        let typed = matches.value_source("home") == Some(clap::parser::ValueSource::CommandLine);
        Self {
            devo: program(home.as_deref().filter(|_| typed)),
            settings: Settings { places: Places::from_env(home) },
            json: matches.get_flag("json"),
            quiet: matches.get_flag("quiet"),
            verbose: matches.get_count("verbose"),
            input: !matches.get_flag("no-input"),
            out: Out::stdout(color),
            err: Out::stderr(color),
        }
    }

    /// Opens the home.
    pub fn app(&self) -> Result<App, Error> {
        App::open(&self.settings)
    }

    /// Opens the home for looking or for a person's word: mistakes in devo.yaml are told and stop neither.
    pub fn app_in_spite(&self) -> Result<App, Error> {
        let app = App::open_in_spite(&self.settings)?;
        if let Some(wrong) = &app.broken {
            let text = wrong.to_text();
            let rest = text.strip_prefix("error:").unwrap_or(&text).trim_end();
            let word = self.err.screen.paint(screen::Ink::Yellow, "warning");
            self.note(&format!(
                "{word}:{rest}\n{word}: going on with default settings; nothing can start until it is mended"
            ));
        }
        Ok(app)
    }

    /// Whether a person sits at this terminal and may be asked.
    pub fn interactive(&self) -> bool {
        self.input && !self.json && !self.quiet && self.err.terminal && std::io::stdin().is_terminal()
    }

    /// A remark for people; not with `-q`.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.err.line(text);
        }
    }

    /// Runs a command that only looks or leaves a word.
    fn wait<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        self.on(&mut builder, work)
    }

    /// Runs a command that drives.
    fn wait_on_all_cores<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        self.on(&mut builder, work)
    }

    fn on<T>(
        &self,
        builder: &mut tokio::runtime::Builder,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let runtime = builder
            .enable_all()
            .build()
            .map_err(|error| Error::machine("runtime", "the system gives no threads to work with", &error))?;
        let result = runtime.block_on(work);
        // A thread that waits for a line of standard input must not keep the program alive.
        runtime.shutdown_background();
        result
    }
}

/// What a person types to reach the same home again.
fn program(home: Option<&Path>) -> String {
    let Some(home) = home else { return "devo".to_owned() };
    let path = home.display().to_string();
    let plain = path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+@%".contains(&byte));
    if plain { format!("devo --home {path}") } else { format!("devo --home '{}'", path.replace('\'', r"'\''")) }
}

/// The whole command line.
fn command() -> Command {
    let global = |arg: Arg| arg.global(true).help_heading("Global options");
    let root = Command::new("devo")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A development task becomes a plan, and the approved plan a tested, pushed branch.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .max_term_width(100)
        .override_help(front_page())
        .arg(global(
            Arg::new("home")
                .long("home")
                .value_name("DIR")
                .env("DEVO_HOME")
                .value_parser(value_parser!(PathBuf))
                .help("The home to work in"),
        ))
        .arg(global(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Write JSON to standard output")))
        .arg(global(
            Arg::new("quiet").short('q').long("quiet").action(ArgAction::SetTrue).help("Print nothing but the result"),
        ))
        .arg(global(
            Arg::new("verbose").short('v').long("verbose").action(ArgAction::Count).help("Tell more; twice tells all"),
        ))
        .arg(global(
            Arg::new("no-color").long("no-color").action(ArgAction::SetTrue).help("No colours [env: NO_COLOR]"),
        ))
        .arg(global(
            Arg::new("no-input")
                .long("no-input")
                .action(ArgAction::SetTrue)
                .help("Never ask; act as without a terminal"),
        ));
    COMMANDS.iter().fold(root, |root, entry| {
        // The line is set last: the comments of argument structs would become the command's own.
        let command = (entry.augment)(Command::new(entry.name)).about(entry.about).long_about(None);
        let examples = entry.examples.lines().map(|line| format!("  {line}\n")).collect::<String>();
        root.subcommand(command.after_help(format!("Examples:\n{}", examples.trim_end())))
    })
}

/// The first help: every command on one screen.
fn front_page() -> String {
    let mut text = String::from(
        "A development task becomes a plan, and the approved plan a tested, pushed branch.\n\n\
         Usage: devo [OPTIONS] COMMAND …\n",
    );
    for (group, title) in GROUPS {
        text.push_str(title);
        text.push('\n');
        for entry in COMMANDS.iter().filter(|entry| entry.group == *group) {
            text.push_str(&format!("  {:<13}{}\n", entry.name, entry.about));
        }
    }
    text.push_str(
        "Options, for every command\n\
         \x20 --home DIR   the home to work in [env: DEVO_HOME]     --json      JSON on standard output\n\
         \x20 -q           nothing but the result                   -v, -vv     tell more\n\
         \x20 --no-color   no colours [env: NO_COLOR]               --no-input  never ask\n\
         `devo COMMAND --help` has examples; `devo help exit-codes`, `environment` and `json` have the rest.\n",
    );
    text
}

/// Runs a command line; the answer is the exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    tell_bugs();
    let args: Vec<OsString> = args.into_iter().collect();
    let json = args.iter().skip(1).take_while(|arg| *arg != "--").any(|arg| arg == "--json");
    let matches = match command().try_get_matches_from(&args) {
        Ok(matches) => matches,
        Err(error) => return refuse(&error, json),
    };
    let cx = Cx::new(&matches);
    let (name, matches) = matches.subcommand().expect("clap requires a command");
    // The daemon has a log of its own.
    if name != SERVE {
        log_to_stderr(cx.verbose);
    }
    let entry = COMMANDS.iter().find(|entry| entry.name == name).expect("clap knows only these");
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (entry.run)(&cx, matches)));
    match ended {
        Ok(Ok(exit)) => match screen::lost() {
            Some(why) => {
                let error = Error::refused("output_lost", format!("cannot write the output: {why}"));
                cx.err.write(&error.hint("what was written is not whole; free the disk, or write elsewhere").to_text());
                // How a run ended says more than that it could not be shown.
                if exit == Exit::Completed { Exit::Failed.code() } else { exit.code() }
            }
            None => exit.code(),
        },
        Ok(Err(error)) => {
            tell(&cx, &error);
            error.exit.code()
        }
        // The hook has told it.
        Err(_) => Exit::Bug.code(),
    }
}

fn tell(cx: &Cx, error: &Error) {
    if cx.json {
        cx.out.line(&error.to_json().to_string());
    }
    let text = error.to_text();
    let (word, rest) = text.split_once(':').unwrap_or(("error", &text));
    cx.err.write(&format!("{}:{rest}", cx.err.screen.paint(screen::Ink::Red, word)));
}

/// What clap says: help and the version are results, anything else is a usage error.
fn refuse(error: &clap::Error, json: bool) -> u8 {
    use clap::error::ErrorKind;
    let help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if json && !help {
        let text = error.to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let error = Error::usage(message).hint("devo COMMAND --help");
        Out::stdout(Some(false)).line(&error.to_json().to_string());
    }
    // A closed pipe is nobody's error.
    let _ = error.print();
    if help { Exit::Completed.code() } else { Exit::Refused.code() }
}

/// A panic is our bug: it says so, and how to report it. A step's panic fails the step; anything else ends with 70.
fn tell_bugs() {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let said = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        let place = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
        let version = env!("CARGO_PKG_VERSION");
        let error = Error::bug(format!("devo {version} has met something impossible{place}: {said}"));
        Out::stderr(None).write(&error.to_text());
    }));
}

fn log_to_stderr(verbose: u8) {
    use tracing_subscriber::EnvFilter;
    let level = match verbose {
        0 => "warn",
        1 => "devo=info,warn",
        2 => "devo=debug,info",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("DEVO_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    // A second subscriber (in tests) changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .try_init();
}

#[cfg(test)]
mod tests;
