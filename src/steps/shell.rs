//! `shell`: a command of the pipeline's author, in the sandbox. Every interpolated value is one quoted word.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::commands::{disk_full, limit_said, masked, sandbox_failure};
use super::{Context, Kind, Outcome, Step, Turn, build};
use crate::core::failure::Failure;
use crate::core::graph::Authority;
use crate::templates::{Mode, render_shell};

/// `shell` in the list.
pub const KIND: Kind = Kind {
    name: "shell",
    summary: "runs a command in the sandbox",
    schema: || schemars::schema_for!(Shell),
    templates: &[("run", Mode::Shell)],
    authority: Authority::Free,
    exclusive: true,
    build: build::<Shell>,
};

/// What is kept of each stream in the output, in bytes; the log keeps more.
const KEEP: usize = 16 * 1024;
/// JSON that a step may put out, in bytes.
const KEEP_JSON: usize = 256 * 1024;
/// What a failure shows of the output, in bytes.
const TAIL: usize = 2 * 1024;

/// The step's own keys.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shell {
    /// A shell text for `sh -c`; values in `{{ … }}` are quoted.
    run: String,
    /// `json`: standard output is parsed and becomes the step's output.
    #[serde(default)]
    outputs: Option<Outputs>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Outputs {
    Json,
}

#[async_trait]
impl Step for Shell {
    async fn run(&self, cx: &Context, turn: Turn) -> Outcome {
        let script = match render_shell(&self.run, &cx.template_context()) {
            Ok(script) => script,
            Err(error) => return Outcome::Fail(Failure::terminal("bad_template", format!("run: {error}"))),
        };
        let workspace = match cx.command_folder() {
            Ok(folder) => folder,
            Err(failure) => return failure.into(),
        };
        let json_out = self.outputs == Some(Outputs::Json);
        let mut command = cx.command(&turn, &script, &workspace);
        command.limits.output_bytes = if json_out { KEEP_JSON } else { KEEP };
        let done = match cx.equipment.sandbox.exec(&command, &cx.lines(), &cx.cancel).await {
            Ok(done) => done,
            Err(error) => return Outcome::Fail(sandbox_failure(&error)),
        };
        let masker = &cx.equipment.masker;
        let (stdout, stderr) = (masked(&done.stdout, masker), masked(&done.stderr, masker));
        let Some(code) = done.exit.code() else {
            return Outcome::Fail(Failure::retryable("stopped", "the command was stopped"));
        };
        if let Some(failure) = disk_full(&done) {
            return failure.into();
        }
        if code != 0 {
            let limit = done.limits_hit.first().map_or(String::new(), |hit| format!("; {}", limit_said(*hit)));
            let shown = tail(if stderr.trim().is_empty() { &stdout } else { &stderr });
            let failure =
                Failure::retryable("exit_code", format!("the command ended with exit code {code}{limit}:\n{shown}"))
                    .hint("`devo logs RUN` shows the whole output")
                    .feedback(format!("The step `{}` failed with exit code {code}:\n{shown}", cx.step));
            return Outcome::Fail(failure);
        }
        if !json_out {
            return Outcome::Done(json!({"exit": code, "stdout": stdout, "stderr": stderr}));
        }
        if done.stdout.cut_bytes() > 0 {
            let message = format!("standard output is larger than the {KEEP_JSON} bytes that `outputs: json` takes");
            return Outcome::Fail(Failure::terminal("bad_output", message).hint("write less, or leave `outputs` out"));
        }
        match serde_json::from_str::<Value>(&stdout) {
            Ok(value) => Outcome::Done(value),
            Err(error) => Outcome::Fail(
                Failure::terminal(
                    "bad_output",
                    format!("standard output is not JSON: {error}; it begins: {}", first(&stdout)),
                )
                .hint("`outputs: json` wants one JSON value on standard output and everything else on standard error"),
            ),
        }
    }
}

/// The end of a text, from a line's start.
pub(super) fn tail(text: &str) -> &str {
    let text = text.trim_end();
    if text.len() <= TAIL {
        return text;
    }
    let from = (text.len() - TAIL..).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    let rest = &text[from..];
    rest.split_once('\n').map_or(rest, |(_, lines)| lines)
}

fn first(text: &str) -> String {
    text.chars().take(80).collect()
}
