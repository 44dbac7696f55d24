//! Desktop notifications of the command line: in a real pseudo-terminal (`script`), with a `notify-send` of our own.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use crate::daemon::{configure, quick};
use crate::world::World;

const GOOD: &str = "pipeline: {steps: {a: {type: shell, run: 'true'}}}\ntask: '; rm -rf / $(x) --help'\n";
const BAD: &str = "pipeline: {steps: {a: {type: shell, run: exit 1}}}\ntask: -h\n";

/// A world whose `notify-send` writes down its words and its environment.
fn world(desktop: bool) -> World {
    let world = quick();
    configure(&world, &format!("notify: {{desktop: {desktop}}}"));
    let said = world.path("said");
    let program = format!(
        "#!/bin/sh\n{{ for word; do printf '[%s]' \"$word\"; done; echo; env; }} >>'{0}.new'\nmv '{0}.new' '{0}'\n",
        said.display()
    );
    let program = world.write("bin/notify-send", &program);
    std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).unwrap();
    world
}

/// What a command shows in a terminal.
fn in_terminal(world: &World, args: &[&str], environment: &[(&str, &str)]) -> String {
    let output = terminal(world, args, environment).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn terminal(world: &World, args: &[&str], environment: &[(&str, &str)]) -> Command {
    let devo = world.command(args);
    let words = std::iter::once(devo.get_program()).chain(devo.get_args());
    let line: Vec<String> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    let path = format!("{}:{}", world.path("bin").display(), std::env::var("PATH").unwrap());
    let environ = devo.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let mut command = Command::new("script");
    command
        .args(["-qec", &line.join(" "), "/dev/null"])
        .current_dir(world.dir.path())
        .env_clear()
        .envs(environ)
        .env("TERM", "xterm")
        .env("PATH", path)
        .envs(environment.iter().copied())
        .stdin(Stdio::null());
    command
}

fn said(world: &World) -> Option<String> {
    std::fs::read_to_string(world.path("said")).ok()
}

#[test]
fn a_desktop_session_is_told_by_its_own_program_and_sees_no_key() {
    let world = world(true);
    let task = world.write("good.yaml", GOOD);
    in_terminal(&world, &["run", task.to_str().unwrap(), "--no-input"], &[("DISPLAY", ":0"), ("LANG", "es_ES.UTF-8")]);
    let said = crate::daemon::until(|| said(&world));
    let (words, environment) = said.split_once('\n').unwrap();
    assert!(words.starts_with("[--app-name=devo][--urgency][normal][--][devo: terminado]["), "{words}");
    assert!(words.ends_with(" · ; rm -rf / $(x) --help]"), "{words}");
    assert!(environment.contains("DISPLAY=:0"), "{environment}");
    assert!(!environment.contains(crate::world::KEY) && !environment.contains("API_KEY"), "{environment}");
}

#[test]
fn a_terminal_alone_is_told_in_the_way_that_it_knows() {
    let world = world(true);
    let (good, bad) = (world.write("good.yaml", GOOD), world.write("bad.yaml", BAD));
    let shown = in_terminal(&world, &["run", bad.to_str().unwrap(), "--no-input"], &[("TERM_PROGRAM", "WezTerm")]);
    assert!(shown.contains("\x1b]9;devo: failed: "), "{shown:?}");
    let shown = in_terminal(&world, &["run", good.to_str().unwrap(), "--no-input"], &[("TERM", "foot")]);
    assert!(shown.contains("\x1b]777;notify;devo: done;"), "{shown:?}");
    let shown = in_terminal(&world, &["run", good.to_str().unwrap(), "--no-input"], &[]);
    assert!(shown.contains('\x07') && !shown.contains("\x1b]"), "{shown:?}");
    assert_eq!(said(&world), None, "there is no desktop session");
}

#[test]
fn nobody_is_told_without_a_terminal_in_ci_or_unless_devo_yaml_wants_it() {
    let world_on = world(true);
    let task = world_on.write("good.yaml", GOOD);
    let quiet = |world: &World, environment: &[(&str, &str)], more: &[&str]| {
        let mut args = vec!["run", task.to_str().unwrap(), "--no-input"];
        args.extend_from_slice(more);
        let shown = in_terminal(world, &args, environment);
        assert!(!shown.contains('\x07'), "{shown:?}");
    };
    quiet(&world_on, &[("CI", "true"), ("DISPLAY", ":0")], &[]);
    quiet(&world_on, &[("DISPLAY", ":0")], &["-q"]);
    let output = world_on.command(&["run", task.to_str().unwrap()]).env("DISPLAY", ":0").output().unwrap();
    assert!(output.status.success() && !output.stderr.contains(&7));
    let world_off = world(false);
    quiet(&world_off, &[("DISPLAY", ":0")], &[]);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!((said(&world_on), said(&world_off)), (None, None));
}

#[test]
fn whoever_follows_the_log_is_told_as_well() {
    let world = world(true);
    let gate = world.path("gate");
    let text = format!(
        "pipeline: {{steps: {{a: {{type: shell, run: \"echo it begins; until test -e '{}'; do sleep 0.05; done\"}}}}}}\n",
        gate.display()
    );
    let task = world.write("slow.yaml", &text);
    let daemon = crate::daemon::Daemon::start(&world);
    let run = world.devo(&["run", task.to_str().unwrap(), "--no-watch"]).code(0).stdout.trim().to_owned();
    let shown = std::fs::File::create(world.path("shown")).unwrap();
    let mut logs = terminal(&world, &["logs", &run, "--follow"], &[("DISPLAY", ":0")]).stdout(shown).spawn().unwrap();
    let shown = || std::fs::read_to_string(world.path("shown")).unwrap();
    crate::daemon::until(|| shown().contains("it begins").then_some(()));
    std::fs::write(&gate, "").unwrap();
    assert!(logs.wait().unwrap().success());
    let said = crate::daemon::until(|| said(&world));
    assert!(said.contains("[devo: done]"), "{said} {}", shown());
    daemon.stop();
}
