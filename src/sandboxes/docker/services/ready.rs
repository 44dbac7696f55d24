//! Whether a service is ready: asked in its container, often at first, until it is or its time is over.

use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::models::ContainerState;
use futures_util::StreamExt as _;

use super::super::super::SandboxError;
use super::super::description::{Ready, ServiceDescription, shell};
use super::container::MEMORY_BYTES;
use super::{logs, setup};

/// The first pause between two questions; each is half as long again as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A service that nobody can ask is ready when it has run for so long: one whose program is missing, or that dies at once, is
/// a moment in the state of running too.
const STEADY: Duration = Duration::from_millis(500);
/// A question without an answer for so long is asked again; the old one ends with its container.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Even the last question has so long: one that is cut off says nothing.
const ANSWER_AT_LEAST: Duration = Duration::from_secs(2);
/// Bytes of an answer that an error shows.
const ANSWER_BYTES: usize = 500;

/// What is asked.
pub(super) enum Check {
    /// Whether this command succeeds.
    Command(Vec<String>),
    /// Whether it runs.
    Runs,
    /// Whether it has ended well.
    Ended,
}

/// What is to be asked of a service that is made from this image.
pub(super) async fn check(docker: &Docker, service: &ServiceDescription, image: &str) -> Result<Check, SandboxError> {
    match &service.ready {
        Ready::Command(command) => Ok(Check::Command(command.clone())),
        Ready::Started => Ok(Check::Runs),
        Ready::Completed => Ok(Check::Ended),
        Ready::Image => {
            let found = docker.inspect_image(image).await;
            let config =
                found.map_err(|error| setup(&format!("look at the image of `{}`", service.name), error))?.config;
            let config = config.unwrap_or_default();
            let test = config.healthcheck.and_then(|check| check.test).unwrap_or_default();
            Ok(match test.split_first() {
                Some((kind, command)) if kind == "CMD" && !command.is_empty() => Check::Command(command.to_vec()),
                Some((kind, script)) if kind == "CMD-SHELL" && !script.is_empty() => {
                    let script = script.join(" ");
                    let own = config.shell.filter(|shell| !shell.is_empty());
                    Check::Command(own.map_or_else(|| shell(&script), |shell| [shell, vec![script.clone()]].concat()))
                }
                _ => Check::Runs,
            })
        }
    }
}

/// Waits until the answer is yes.
pub(super) async fn wait(
    docker: &Docker,
    container: &str,
    service: &ServiceDescription,
    check: &Check,
    within: Duration,
) -> Result<(), SandboxError> {
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut last = String::new();
    loop {
        let found = docker.inspect_container(container, None).await;
        let state = found.map_err(|error| setup(&format!("look at the service `{}`", service.name), error))?.state;
        let state = state.unwrap_or_default();
        if !state.running.unwrap_or(false) {
            if matches!(check, Check::Ended) && state.exit_code == Some(0) {
                return Ok(());
            }
            return Err(failure(docker, container, service, ended(&state), "look at its log and at its `env`").await);
        }
        match check {
            Check::Runs if began.elapsed() >= STEADY => return Ok(()),
            Check::Runs | Check::Ended => {}
            Check::Command(command) => {
                let left = within.saturating_sub(began.elapsed());
                match tokio::time::timeout(left.clamp(ANSWER_AT_LEAST, ANSWER_WITHIN), ask(docker, container, command))
                    .await
                {
                    Ok(Ok((Some(0), _))) => return Ok(()),
                    Ok(Ok((code, text))) => {
                        let code = code.map_or_else(|| "no code".to_owned(), |code| format!("code {code}"));
                        last = format!("`{}` ended with {code}: {text}", question(command));
                    }
                    Ok(Err(error)) => last = format!("`{}` could not be run: {error}", question(command)),
                    Err(_) => last = format!("`{}` did not answer", question(command)),
                }
            }
        }
        if began.elapsed() >= within {
            let what = match check {
                Check::Ended => format!("did not end within {} s", within.as_secs()),
                _ => format!("was not ready within {} s ({})", within.as_secs(), last.trim_end().trim_end_matches(':')),
            };
            let hint = "look at its log; a slow one needs a larger `ready_within_s`, a wrong `ready` never succeeds";
            return Err(failure(docker, container, service, what, hint).await);
        }
        tokio::time::sleep(pause.min(within.saturating_sub(began.elapsed()))).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// A command as somebody wrote it.
fn question(command: &[String]) -> String {
    match command {
        [shell, option, script] if shell == "/bin/sh" && option == "-c" => script.clone(),
        command => command.join(" "),
    }
}

fn ended(state: &ContainerState) -> String {
    if state.oom_killed.unwrap_or(false) {
        return format!("was ended by the kernel: it needs more than the {} MiB that it may use", MEMORY_BYTES >> 20);
    }
    match state.exit_code {
        Some(code) => format!("ended with code {code} instead of staying"),
        None => "ended".to_owned(),
    }
}

async fn failure(
    docker: &Docker,
    container: &str,
    service: &ServiceDescription,
    what: String,
    hint: &str,
) -> SandboxError {
    let log = logs::tail(docker, container).await;
    SandboxError::Service { name: service.name.clone(), what, log, hint: hint.to_owned() }
}

/// Runs a command in a container; gives its code and what it printed.
async fn ask(
    docker: &Docker,
    container: &str,
    command: &[String],
) -> Result<(Option<i64>, String), bollard::errors::Error> {
    let options = CreateExecOptions {
        cmd: Some(command.to_vec()),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..Default::default()
    };
    let id = docker.create_exec(container, options).await?.id;
    let mut printed = Vec::new();
    if let StartExecResults::Attached { mut output, .. } = docker.start_exec(&id, None).await? {
        while let Some(chunk) = output.next().await {
            let chunk = chunk?;
            let room = ANSWER_BYTES.saturating_sub(printed.len());
            printed.extend(chunk.as_ref().iter().take(room));
        }
    }
    let code = docker.inspect_exec(&id).await?.exit_code;
    let text = String::from_utf8_lossy(&printed).lines().map(crate::secrets::printable).collect::<Vec<_>>().join(" ");
    Ok((code, text))
}
