//! The command line as a whole: parsing, help, usage errors.

use super::*;

fn parse(line: &str) -> Result<ArgMatches, clap::Error> {
    command().try_get_matches_from(std::iter::once("devo").chain(line.split_whitespace()))
}

#[test]
fn the_definition_holds_together() {
    command().debug_assert();
    let mut names: Vec<&str> = COMMANDS.iter().map(|entry| entry.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), COMMANDS.len(), "no word means two commands");
    assert!(COMMANDS.iter().all(|entry| entry.examples.lines().all(|line| line.trim_start().starts_with("devo"))));
}

#[test]
fn the_first_help_fits_one_screen_and_names_every_command() {
    let page = command().render_help().to_string();
    assert!(page.lines().count() <= 40, "{} lines", page.lines().count());
    assert!(page.lines().all(|line| line.chars().count() <= 100), "{page}");
    for entry in COMMANDS {
        let line = format!("  {:<13}{}", entry.name, entry.about);
        assert!(page.contains(&line), "{}", entry.name);
    }
    insta::assert_snapshot!(page);
}

#[test]
fn the_contracts_command_lines_are_understood() {
    for line in [
        "demo",
        "init",
        "init /tmp/x",
        "run task.yaml",
        "run --pipeline dev-task --repo shop --task x --input a=b --input c=d --yes --watch",
        "run task.yaml --no-watch --record f --json",
        "run task.yaml --replay f --dry-run --no-color --no-input -q -vv --home /x",
        "submit task.yaml",
        "submit --pipeline p --repo r --task t --input k=v",
        "serve",
        "status",
        "status 3f2a --json",
        "logs 3f2a --step test --follow",
        "plan 3f2a --json",
        "diff 3f2a",
        "approve 3f2a --hash abc --note hello",
        "revise 3f2a other words too",
        "reject 3f2a --note no",
        "answer 3f2a 2.50",
        "answer 3f2a -5",
        "abort 3f2a",
        "resume 3f2a --no-watch",
        "retry 3f2a --from build",
        "validate a.yaml b.yaml",
        "graph a.yaml --format mermaid",
        "graph a.yaml --format svg",
        "schema --write",
        "prompt show plan --task task.yaml",
        "doctor --json",
        "gc",
        "completions bash",
        "help exit-codes",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn nonsense_is_a_usage_error() {
    for line in [
        "frobnicate",
        "run task.yaml --task x",
        "run --record a --replay b --task x",
        "run --input novalue",
        "validate",
        "prompt show plan",
        "revise 3f2a",
        "status --limit many",
    ] {
        let error = parse(line).unwrap_err();
        assert_eq!(refuse(&error, false), 2, "{line}");
    }
    assert_eq!(refuse(&parse("--version").unwrap_err(), true), 0);
    assert_eq!(refuse(&parse("run --help").unwrap_err(), false), 0);
}

#[test]
fn every_command_has_examples_in_its_help() {
    let mut root = command();
    root.build();
    for entry in COMMANDS {
        let help = root.find_subcommand_mut(entry.name).unwrap().render_long_help().to_string();
        assert!(help.starts_with(entry.about), "{help}");
        assert!(help.contains("Examples:\n  devo "), "{help}");
    }
}
