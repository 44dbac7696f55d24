//! `devo demo`: works offline from the shipped recording, and the recording is what the shipped prompts and script give.

use serde_json::Value;

use crate::fake::{Answer, Fake};
use crate::world::World;

fn scripted(fake: &Fake) {
    let script: Value = serde_json::from_str(include_str!("../../src/frontends/cli/demo/script.json")).unwrap();
    for reply in script["planner"].as_array().unwrap() {
        fake.planner(Answer::Json(reply.clone()));
    }
    for reply in script["executor"].as_array().unwrap() {
        fake.executor(Answer::Json(reply.clone()));
    }
}

/// `DEVO_RECORD_DEMO=1 cargo test --test it demo` makes the shipped recording anew, after a change of prompts or tools.
#[test]
fn the_recording_can_be_made_anew() {
    let world = World::bare();
    scripted(&world.fake);
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/src/frontends/cli/demo/cassette.jsonl");
    let again = std::env::var_os("DEVO_RECORD_DEMO").is_some();
    let path = if again { shipped.into() } else { world.path("demo.jsonl") };
    if again {
        std::fs::remove_file(shipped).unwrap();
    }
    world.devo(&["demo", "--json", "--record", path.to_str().unwrap()]).code(0);
    assert_eq!(world.fake.left(), (0, 0), "the whole script was used");
}

#[test]
fn the_shipped_recording_plays_without_keys_and_without_network() {
    let world = World::bare();
    let mut command = world.command(&["demo", "--json"]);
    for name in ["ANTHROPIC_API_KEY", "GEMINI_API_KEY", "ANTHROPIC_BASE_URL", "GOOGLE_GEMINI_BASE_URL", "DEVO_HOME"] {
        command.env_remove(name);
    }
    let ran = crate::world::ran(command.output().unwrap()).code(0);
    let lines = ran.lines();
    let run = &lines.last().unwrap()["run"];
    assert_eq!(run["status"], "COMPLETED");
    assert_eq!(run["usage"]["calls"], 6);
    assert!(run["branch"].as_str().unwrap().contains("validar-stock-negativo"));
    // A test run that fails first and passes after the fix.
    assert_eq!(run["steps"][3]["output"]["iterations"], 2);
    assert!(world.fake.asked().is_empty(), "nobody was asked");
}

#[test]
fn the_demo_names_each_further_command_once() {
    let world = World::bare();
    let mut command = world.command(&["demo"]);
    command.env_remove("DEVO_HOME");
    let ran = crate::world::ran(command.output().unwrap()).code(0);
    for word in ["status", "plan", "logs", "diff"] {
        let lines = ran.stdout.lines().filter(|line| line.trim_start().starts_with("devo --home"));
        let named = lines.filter(|line| line.split_whitespace().any(|part| part == word)).count();
        assert_eq!(named, 1, "{word}:\n{}", ran.stdout);
    }
}
