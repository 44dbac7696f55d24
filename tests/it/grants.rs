//! What steps are granted: secrets that reach only the steps that name them and nothing that is stored or shown, and networks
//! and services that are refused where devo.yaml does not grant them.

use std::path::Path;

use base64::Engine as _;
use serde_json::Value;

use crate::world::{KEY, Ran, World, ran};

const TOKEN: &str = "npm_9fA8c7E6b5D4-zYx/wVu+tSr~Q";
const KEY_FILE: &str =
    "-----BEGIN TEST KEY-----\nMIIBVgIBADANBgkqhkiG9w0BAQEF\nAASCAUAwggE8AgEAAkEAq7BFUpkG\n-----END TEST KEY-----\n";
const CREDENTIAL: &str = "systemd-gave-this-0123456789";

/// What must be found nowhere: values, their lines, encoded forms, halves.
fn forms() -> Vec<String> {
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let mut forms: Vec<String> = [TOKEN, CREDENTIAL].iter().map(|value| (*value).to_owned()).collect();
    forms.extend(KEY_FILE.lines().filter(|line| !line.starts_with('-')).map(str::to_owned));
    forms.extend([&TOKEN[..14], &TOKEN[16..], &encode(TOKEN)[..36], &encode(TOKEN)[16..32]].map(str::to_owned));
    // `user:TOKEN`, encoded: what depends on the token alone.
    forms.push(encode(&format!("user:{TOKEN}"))[8..40].to_owned());
    forms
}

/// Every file below a folder that holds one of the forms.
fn holding(folder: &Path, forms: &[String], found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            holding(&path, forms, found);
        } else if let Ok(bytes) = std::fs::read(&path) {
            let text = String::from_utf8_lossy(&bytes);
            found.extend(
                forms.iter().filter(|form| text.contains(*form)).map(|form| format!("{}: {form}", path.display())),
            );
        }
    }
}

fn world(sandbox: &str) -> World {
    let world = World::bare();
    let config = format!("secrets: [NPM_TOKEN, DEPLOY_KEY, FROM_SYSTEMD]\nsandbox: {{type: {sandbox}}}\n");
    std::fs::write(world.home().join("devo.yaml"), config).unwrap();
    world
}

fn with_secrets(world: &World, args: &[&str]) -> std::process::Command {
    world.write("key", KEY_FILE);
    world.write("credentials/FROM_SYSTEMD", CREDENTIAL);
    let mut command = world.command(args);
    command.env("NPM_TOKEN", TOKEN).env("DEPLOY_KEY_FILE", world.path("key"));
    command.env("CREDENTIALS_DIRECTORY", world.path("credentials"));
    // What an engine may have in its environment and no command sees.
    command
        .env("GITHUB_TOKEN", "ghp-of-the-engine-0123456789")
        .env("SSH_AUTH_SOCK", "/nowhere/agent")
        .env("EDITOR", "vi");
    command
}

const LEAKS: &str = r#"
steps:
  show:
    type: shell
    secrets: [NPM_TOKEN, DEPLOY_KEY, FROM_SYSTEMD]
    run: |
      printf '%s\n' "$NPM_TOKEN" "$DEPLOY_KEY" "$FROM_SYSTEMD" >&2
      printf %s "$NPM_TOKEN" | base64 -w 16
      printf 'user:%s' "$NPM_TOKEN" | base64
      printf %s "$NPM_TOKEN" | fold -w 9; echo
      printf %s "$NPM_TOKEN" | cut -c 1-15 | tr -d '\n'; sleep 0.2; printf %s "$NPM_TOKEN" | cut -c 16-
      printf '\033[1m%s\033[0m%s\n' "$(printf %s "$NPM_TOKEN" | cut -c 1-12)" "$(printf %s "$NPM_TOKEN" | cut -c 13-)"
      env
      touch shown
      until [ -e go ]; do sleep 0.02; done
      i=0; while [ $i -lt 700 ]; do printf '%s' "$i-$NPM_TOKEN"; i=$((i+1)); done
  parsed: {type: shell, needs: show, secrets: [NPM_TOKEN], outputs: json, run: 'printf "{\"t\": \"%s\"}" "$NPM_TOKEN"'}
  broken: {type: shell, needs: parsed, secrets: [NPM_TOKEN], run: 'echo "no $NPM_TOKEN"; echo "bad $NPM_TOKEN" >&2; exit 3'}
  other: {type: shell, needs: show, run: 'env; ls -la; tr "\0" "\n" </proc/self/environ'}
"#;

fn nothing_leaks(sandbox: &str) {
    let world = world(sandbox);
    std::fs::write(world.home().join("pipelines/leaks.yaml"), LEAKS).unwrap();
    let mut command = with_secrets(&world, &["run", "--pipeline", "leaks", "--json"]);
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let scratch = loop {
        let runs = std::fs::read_dir(world.home().join("runs")).unwrap().flatten().next();
        match runs.map(|run| run.path().join("scratch")).filter(|scratch| scratch.join("shown").exists()) {
            Some(scratch) => break scratch,
            None => std::thread::yield_now(),
        }
    };
    let forms = forms();
    // The command runs now, with the secrets in its environment: nobody's arguments hold them.
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        assert!(!forms.iter().any(|form| line.contains(form)), "{line}");
    }
    // And what is written while it runs is masked already.
    let mut found = Vec::new();
    holding(&world.home(), &forms, &mut found);
    std::fs::write(scratch.join("go"), "").unwrap();
    let run = ran(child.wait_with_output().unwrap()).code(1);
    holding(&world.home(), &forms, &mut found);
    assert!(found.is_empty(), "{}", found.join("\n"));
    let result = run.lines().pop().unwrap()["run"].clone();
    let step = |id: &str| result["steps"].as_array().unwrap().iter().find(|step| step["id"] == id).unwrap().clone();
    let shown = step("show");
    assert_eq!(shown["state"], "succeeded", "{shown}");
    assert!(
        shown["output"]["stdout"].as_str().unwrap().contains("bytes cut"),
        "the cut goes through a secret: {shown}"
    );
    assert_eq!(step("parsed")["output"]["t"], "***");
    assert!(step("broken")["error"]["message"].as_str().unwrap().contains("bad ***"));
    let id = result["task_id"].as_str().unwrap();
    let logs = world.devo(&["logs", id]).code(0);
    for text in [&run.stdout, &run.stderr, &logs.stdout, &world.devo(&["status", id]).code(0).stdout] {
        let held: Vec<&String> = forms.iter().filter(|form| text.contains(*form)).collect();
        assert!(held.is_empty(), "{held:?} in {text}");
    }
    let env = step("other")["output"]["stdout"].as_str().unwrap().to_owned();
    let mut names: Vec<&str> = env.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| !["PWD", "SHLVL", "_", "OLDPWD", "TZ"].contains(name));
    assert_eq!(
        names,
        ["DEVO_ATTEMPT", "DEVO_IDEMPOTENCY_KEY", "DEVO_ROUND", "DEVO_RUN_ID", "DEVO_STEP", "HOME", "LANG", "PATH"]
    );
    let all = [run.stdout, env].concat();
    assert!(!all.contains("ghp-of-the-engine") && !all.contains("/nowhere/agent") && !all.contains(KEY));
}

#[test]
fn a_secret_reaches_its_step_and_nothing_that_is_kept_or_shown_in_bubblewrap() {
    nothing_leaks("bubblewrap");
}

#[test]
fn a_secret_reaches_its_step_and_nothing_that_is_kept_or_shown_on_the_host() {
    nothing_leaks("host");
}

/// Runs a pipeline of the home and gives what was said of its refusal.
fn refused(world: &World, text: &str, more: &[(&str, &str)]) -> String {
    std::fs::write(world.home().join("pipelines/p.yaml"), text).unwrap();
    let mut command = world.command(&["run", "--pipeline", "p"]);
    let ran: Ran = ran(command.envs(more.iter().copied()).output().unwrap()).code(2);
    let all: Value = world.devo(&["status", "--json"]).code(0).json();
    assert!(all["runs"].as_array().or(all.as_array()).unwrap().is_empty(), "nothing was made");
    ran.stderr
}

#[test]
fn secrets_that_cannot_be_had_are_refused_when_the_run_is_made() {
    let world = world("bubblewrap");
    let step = |name: &str| format!("steps:\n  a: {{type: shell, run: 'true', secrets: [{name}]}}\n");
    for (name, value, wanted) in [
        ("NPM_TOKEN", "", "the secret `NPM_TOKEN` has no value"),
        ("NPM_TOKEN", "12345", "too short"),
        ("NPM_TOKEN", KEY, "has the value of ANTHROPIC_API_KEY"),
        ("NPM_TOKE", "long-enough-0123", "did you mean `NPM_TOKEN`?"),
        ("GEMINI_API_KEY", "long-enough-0123", "a credential of the engine's own"),
        ("GEMINI_API_KEY_FILE", "long-enough-0123", "a credential of the engine's own"),
        ("TELEGRAM_BOT_TOKEN", "long-enough-0123", "a credential of the engine's own"),
    ] {
        let said = refused(&world, &step(name), &[(name, value)]);
        assert!(said.contains(wanted), "{name}: {said}");
        assert!(value.is_empty() || !said.contains(value), "{said}");
    }
    let two = "steps:\n  a: {type: shell, run: 'true', secrets: [NPM_TOKEN]}\n  b: {type: shell, run: 'true', secrets: [OTHER]}\n";
    let said = refused(&world, two, &[]);
    assert!(said.contains("`NPM_TOKEN` has no value") && said.contains("does not list the secret `OTHER`"), "{said}");
    std::fs::write(world.home().join("devo.yaml"), "secrets: [ANTHROPIC_API_KEY, DEVO_X, 'a b']\n").unwrap();
    let wrong = world.devo(&["validate", world.home().join("devo.yaml").to_str().unwrap()]).code(2);
    assert_eq!(wrong.stderr.matches("bad_secret").count() + wrong.stdout.matches("bad_secret").count(), 3);
}

#[test]
fn a_pipeline_that_anyone_could_have_written_gets_what_devo_yaml_gives_and_no_more() {
    let world = World::shop();
    std::fs::write(
        world.home().join("devo.yaml"),
        format!(
            "secrets: [NPM_TOKEN]\nrepos:\n  shop:\n    url: {}\n    network: [\"*.example.org\"]\n",
            world.path("remote.git").display()
        ),
    )
    .unwrap();
    let inline = |keys: &str| {
        let task = format!("repo: shop\npipeline:\n  steps:\n    a: {{type: shell, run: 'true', {keys}}}\n");
        let file = world.write("task.yaml", &task);
        ran(world.command(&["run", file.to_str().unwrap(), "--dry-run"]).env("NPM_TOKEN", TOKEN).output().unwrap())
    };
    for (keys, wanted) in [
        ("secrets: [NPM_TOKEN]", "only a pipeline of the home's own folder"),
        ("network: [registry.example.com]", "asks for `registry.example.com`"),
        ("network: [\"*\"]", "asks for the whole network"),
        ("services: {db: {image: evil}}", "brings the service `db`"),
    ] {
        let ran = inline(keys).code(2);
        assert!(ran.stderr.contains(wanted), "{keys}: {}", ran.stderr);
    }
    inline("network: [a.example.org]").code(0);
    inline("network: []").code(0);
    // The same file elsewhere is nobody's; under pipelines/ it is the operator's.
    let text = "steps:\n  a: {type: shell, run: 'true', secrets: [NPM_TOKEN], network: [registry.example.com]}\n";
    let outside = world.write("p.yaml", text);
    let named = |name: &str| {
        ran(world
            .command(&["run", "--pipeline", name, "--repo", "shop", "--dry-run"])
            .env("NPM_TOKEN", TOKEN)
            .output()
            .unwrap())
    };
    assert!(named(outside.to_str().unwrap()).code(2).stderr.contains("pipelines"));
    let inside = world.home().join("pipelines/p.yaml");
    std::fs::write(&inside, text).unwrap();
    named("p").code(0);
    named(inside.to_str().unwrap()).code(0);
    std::fs::create_dir(world.home().join("pipelines/x")).unwrap();
    let around = world.home().join("pipelines/x/../../../p.yaml");
    assert!(named(around.to_str().unwrap()).code(2).stderr.contains("pipelines"));
    std::fs::write(&inside, "steps:\n  a: {type: shell, run: 'true', services: {db: {image: postgres}}}\n").unwrap();
    let ran = named("p").code(2);
    assert!(ran.stderr.contains("type: docker") && ran.stderr.contains("this is `bubblewrap`"), "{}", ran.stderr);
}

#[test]
fn doctor_names_secrets_without_a_value() {
    let world = world("host");
    std::fs::write(world.home().join("pipelines/leaks.yaml"), LEAKS.replace("FROM_SYSTEMD", "UNKNOWN_ONE")).unwrap();
    let mut command = world.command(&["doctor", "--json"]);
    let said = ran(command.env("NPM_TOKEN", TOKEN).output().unwrap()).stdout;
    assert!(!said.contains(TOKEN));
    let found: Value = serde_json::from_str(&said).unwrap();
    let checks = found["checks"].as_array().or(found.as_array()).unwrap();
    let level = |id: &str| checks.iter().find(|check| check["id"] == id).map(|check| check["level"].as_str().unwrap());
    assert_eq!(level("secret.NPM_TOKEN"), Some("ok"));
    assert_eq!(level("secret.DEPLOY_KEY"), Some("warning"));
    assert_eq!(level("secret.UNKNOWN_ONE"), Some("warning"));
}

#[test]
fn files_of_keys_are_out_of_sight_where_a_shared_folder_holds_them() {
    let world = World::bare();
    let shared = world.path("shared");
    let config = format!(
        "secrets: [NPM_TOKEN]\nsandbox: {{type: bubblewrap, read: ['{}']}}\n\
         git: {{credentials: {{git.example.org: {{ssh_key: '{}'}}}}}}\n",
        shared.display(),
        shared.join("ssh/id").display()
    );
    std::fs::write(world.home().join("devo.yaml"), &config).unwrap();
    for name in ["shared/anthropic", "shared/npm", "shared/ssh/id", "shared/systemd/X", "shared/tool"] {
        world.write(name, "what-is-in-the-file");
    }
    let _agent = std::os::unix::net::UnixListener::bind(shared.join("agent")).unwrap();
    // A command sees a name, and nothing in it, where a key is; what else the folder holds it reads.
    let look = "cd SHARED; for file in anthropic npm ssh/id systemd/X tool; do \
                grep -q . $file 2>/dev/null && echo \"read $file\"; done; test -S agent && echo agent; true";
    let text = format!("steps:\n  a: {{type: shell, run: {}}}\n", serde_json::to_string(look).unwrap());
    let text = text.replace("SHARED", shared.to_str().unwrap());
    std::fs::write(world.home().join("pipelines/p.yaml"), text).unwrap();
    let mut command = world.command(&["run", "--pipeline", "p", "--json"]);
    command
        .env_remove("ANTHROPIC_API_KEY")
        .env("ANTHROPIC_API_KEY_FILE", shared.join("anthropic"))
        .env("NPM_TOKEN_FILE", shared.join("npm"))
        .env("CREDENTIALS_DIRECTORY", shared.join("systemd"))
        .env("SSH_AUTH_SOCK", shared.join("agent"));
    let run = ran(command.output().unwrap()).code(0).lines().pop().unwrap()["run"].clone();
    assert_eq!(run["steps"][0]["output"]["stdout"], "read tool\n", "{run:#}");

    std::fs::write(world.home().join("devo.yaml"), config.replace("shared']", "shared/npm']")).unwrap();
    let mut command = world.command(&["run", "--pipeline", "p"]);
    let refused = ran(command.env("NPM_TOKEN_FILE", shared.join("npm")).output().unwrap());
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains("a file of a secret"), "{}", refused.stderr);
}
