use super::*;
use crate::yaml::{Diagnostic, parse};

fn wrong(text: &str) -> Vec<Diagnostic> {
    parse("p.yaml", text).and_then(|document| read(&document).map(|_| ())).expect_err(text)
}

/// Code, line and column of every mistake.
fn places(text: &str) -> Vec<(&'static str, usize, usize)> {
    wrong(text).iter().map(|fault| (fault.code, fault.line, fault.column)).collect()
}

#[test]
fn every_mistake_has_a_code_and_a_place() {
    for (text, wanted) in [
        ("steps: {}\n", ("missing_key", 1, 8)),
        ("name: x\n", ("missing_key", 1, 1)),
        ("steps:\n  a: {type: shell, run: x, tipe: y}\n", ("unknown_key", 2, 28)),
        ("steps:\n  a: {type: shel, run: x}\n", ("unknown_type", 2, 13)),
        ("steps:\n  a: {run: x}\n", ("missing_key", 2, 3)),
        ("steps:\n  2a: {type: shell, run: x}\n", ("bad_id", 2, 3)),
        ("steps:\n  a: {type: shell, run: x, needs: b}\n", ("unknown_step", 2, 35)),
        ("steps:\n  a: {type: shell, run: x, needs: a}\n", ("cycle", 2, 35)),
        ("steps:\n  a: {type: shell, run: x, for_each: [1]}\n", ("not_available", 2, 28)),
        ("steps:\n  a: {type: ask}\n", ("not_available", 2, 13)),
        ("steps:\n  a: {type: shell, run: x, timeout: 5min}\n", ("bad_duration", 2, 37)),
        ("steps:\n  a: {type: shell, run: x, retry: {attempts: 0}}\n", ("bad_number", 2, 46)),
        ("steps:\n  a: {type: shell, run: x, if: '1 +'}\n", ("bad_expression", 2, 35)),
        ("steps:\n  a: {type: shell, run: 'echo {{ inputs.x }}'}\n", ("unknown_input", 2, 34)),
        ("steps:\n  a: {type: shell, run: 'echo {{ secrets.x }}'}\n", ("unknown_name", 2, 34)),
        (
            "steps:\n  a:\n    type: shell\n    run: |\n      true\n      echo \"{{ run.id }}\"\n",
            ("bad_template", 6, 13),
        ),
        ("steps:\n  a: {type: shell, run: {{ inputs.x }}}\n", ("bad_key", 2, 26)),
        ("steps:\n  a: {type: shell, run: x, env: {DEVO_X: 1}}\n", ("reserved_name", 2, 34)),
        ("steps:\n  a: {type: shell, run: x, on_failure: {rewind: b}}\n", ("unknown_step", 2, 49)),
        ("steps:\n  p: {type: push}\n", ("unapproved", 2, 3)),
        ("steps:\n  b: {type: execute-loop, limits: {iterations: 0}}\n", ("unapproved", 2, 3)),
        ("inputs:\n  x: {type: text}\nsteps:\n  a: {type: shell, run: x}\n", ("unknown_type", 2, 13)),
        ("inputs:\n  x: {type: integer, default: one}\nsteps:\n  a: {type: shell, run: x}\n", ("wrong_type", 2, 31)),
        ("steps:\n  a: {type: shell, run: x, network: example.org}\n", ("wrong_type", 2, 37)),
        ("steps:\n  a: {type: shell, run: x, network: [a.org, 'http://b.org']}\n", ("bad_domain", 2, 45)),
        ("steps:\n  a: {type: shell, run: x, network: ['*', a.org]}\n", ("bad_domain", 2, 38)),
        ("steps:\n  a: {type: shell, run: x, secrets: [A-B]}\n", ("bad_name", 2, 38)),
        ("steps:\n  a: {type: shell, run: x, secrets: [HOME]}\n", ("reserved_name", 2, 38)),
        ("steps:\n  a: {type: shell, run: x, secrets: [T, T]}\n", ("duplicate_name", 2, 41)),
        ("steps:\n  a: {type: shell, run: x, secrets: [T], env: {T: x}}\n", ("duplicate_name", 2, 37)),
        ("steps:\n  p: {type: plan, secrets: [T]}\n", ("no_secrets_here", 2, 28)),
        ("steps:\n  b: {type: execute-loop, secrets: [T]}\n", ("no_secrets_here", 2, 36)),
        ("steps:\n  a: {type: shell, run: x, services: {db: {}}}\n", ("missing_key", 2, 43)),
        ("steps:\n  a: {type: shell, run: x, services: {DB: {image: x}}}\n", ("bad_name", 2, 39)),
        ("steps:\n  a: {type: shell, run: x, services: {db: {image: x, imag: y}}}\n", ("unknown_key", 2, 54)),
        (
            "steps:\n  a: {type: shell, run: x, services: {db: {image: '', ready_within_s: 0}}}\n",
            ("wrong_value", 2, 51),
        ),
        ("steps:\n  a: {type: shell, run: x, services: {db: {image: x, ready_within_s: 0}}}\n", ("bad_number", 2, 70)),
        ("limits: {usd: 0}\nsteps:\n  a: {type: shell, run: x}\n", ("impossible_limit", 1, 15)),
        ("limits: {wall: 1m}\nsteps:\n  a: {type: shell, run: x, timeout: 2m}\n", ("impossible_limit", 3, 37)),
    ] {
        let found = places(text);
        assert!(found.contains(&wanted), "{text}\nwanted {wanted:?}, found {found:?}");
    }
}

#[test]
fn a_cycle_is_shown_whole_and_does_not_hide_the_next() {
    let text = "steps:\n  a: {type: shell, run: x, needs: c}\n  b: {type: shell, run: x, needs: a}\n  c: {type: shell, run: x, needs: b}\n  \
                d: {type: shell, run: x, needs: e}\n  e: {type: shell, run: x, needs: d}\n";
    let messages: Vec<String> = wrong(text).into_iter().map(|fault| fault.message).collect();
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(messages.iter().any(|message| message.matches('→').count() == 3));
}

#[test]
fn a_diagnostic_reads_like_a_compilers() {
    let text = "steps:\n  build: {type: shell, run: make}\n  test: {type: shell, run: make test, needs: biuld}\n";
    insta::assert_snapshot!(crate::yaml::render(&wrong(text), text, false), @r"
    error[unknown_step]: `needs` names `biuld`, which is not a step
     --> p.yaml:3:46
      |
    3 |   test: {type: shell, run: make test, needs: biuld}
      |                                              ^^^^^
      |
      = help: did you mean `build`?
    ");
}

#[test]
fn the_shipped_pipeline_is_valid_for_reader_and_schema() {
    let text = include_str!("../../pipelines/dev-task.yaml");
    let document = parse("dev-task.yaml", text).unwrap();
    let pipeline = read(&document).unwrap();
    assert_eq!(pipeline.steps.len(), 7);
    let validator = jsonschema::validator_for(&pipeline_schema()).unwrap();
    assert!(validator.is_valid(&document.root.to_json()));
    let broken = parse("x", &text.replace("type: push", "type: pusch")).unwrap();
    assert!(!validator.is_valid(&broken.root.to_json()));
    assert!(jsonschema::validator_for(&task_schema()).is_ok());
}

#[test]
fn grants_are_read_as_they_are_written() {
    let text = "steps:\n  a:\n    type: shell\n    run: x\n    network: [a.org, '*.b.org:8443']\n    secrets: [T]\n    services:\n      \
                db: {image: 'postgres:17', env: {A: b}, command: run, ready: pg_isready, ready_within_s: 5}\n  \
                b: {type: plan, network: ['*'], services: {}}\n";
    let document = parse("p", text).unwrap();
    let steps = read(&document).unwrap().steps;
    let reach = crate::core::domain::Reach::read(&["a.org", "*.b.org:8443"]).unwrap();
    assert_eq!((steps[0].network.as_ref(), steps[0].secrets.as_slice()), (Some(&reach), &["T".to_owned()][..]));
    let service = &steps[0].services["db"];
    assert_eq!(
        (service.image.as_str(), service.env["A"].as_str(), service.ready_within_s),
        ("postgres:17", "b", Some(5))
    );
    assert_eq!(steps[1].network, Some(crate::core::domain::Reach::All));
    let schema = pipeline_schema();
    let validator = jsonschema::validator_for(&schema).unwrap();
    assert!(validator.is_valid(&document.root.to_json()), "the schema agrees");
    for wrong in ["secrets: [T]\n    services: {DB: {image: x}}", "secrets: ['a b']", "network: a.org"] {
        let text = format!("steps:\n  a:\n    type: shell\n    run: x\n    {wrong}\n");
        assert!(!validator.is_valid(&parse("p", &text).unwrap().root.to_json()), "{wrong}");
    }
    let plan = "steps:\n  a: {type: plan, secrets: [T]}\n";
    assert!(!validator.is_valid(&parse("p", plan).unwrap().root.to_json()), "only some types take secrets");
}

#[test]
fn comments_and_layout_do_not_change_a_pipelines_hash() {
    let hash = |text: &str| read(&parse("p", text).unwrap()).unwrap().hash;
    let one = hash("steps:\n  a: {type: shell, run: x}\n");
    assert_eq!(one, hash("# said\nsteps:\n  a:\n    type: shell\n    run: x\n"));
    assert_ne!(one, hash("steps:\n  a: {type: shell, run: y}\n"));
}

#[test]
fn large_pipelines_are_read_and_larger_ones_refused() {
    let chain = |count: usize| {
        let mut text = String::from("steps:\n  s0: {type: shell, run: x}\n");
        for n in 1..count {
            text.push_str(&format!("  s{n}: {{type: shell, run: x, needs: s{}}}\n", n - 1));
        }
        text
    };
    assert_eq!(read(&parse("p", &chain(5_000)).unwrap()).unwrap().steps.len(), 5_000);
    assert!(places(&chain(10_001)).iter().any(|(code, _, _)| *code == "too_many"));
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "(steps|inputs|limits|name|pipeline|task)?:?[ a-c0-9:\\-\\[\\]{}&*|>'\"#\n?,!%]{0,120}") {
        if let Ok(document) = parse("p.yaml", &text) {
            let _ = read(&document);
            let _ = read_task(&document);
        }
    }
}

#[test]
fn a_shell_text_that_looks_like_a_comment_of_templates_is_explained() {
    let text = "name: x\nsteps:\n  a: {type: shell, run: 'echo ${#NAME}'}\n";
    let wrong = wrong(text);
    assert!(wrong[0].help.as_deref().is_some_and(|help| help.contains("{% raw %}")), "{wrong:?}");
    let text = text.replace("${#NAME}", "{% raw %}${#NAME}{% endraw %}");
    read(&parse("p.yaml", &text).unwrap()).unwrap();
}
