//! What a step costs: a chain of 200 and a fan-out of 1,000 no-op shell steps against a plain loop that starts as many shells,
//! in one run. `cargo bench --bench steps` prints the ratios; nothing is asserted, machines are noisy.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 3;

fn devo(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_devo"));
    command.env("DEVO_HOME", home).args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn pipeline(dir: &Path, name: &str, count: usize, chained: bool) -> String {
    let mut text = String::from("steps:\n");
    for n in 0..count {
        let needs = if chained && n > 0 { format!(", needs: s{}", n - 1) } else { String::new() };
        text.push_str(&format!("  s{n}: {{type: shell, run: 'true'{needs}}}\n"));
    }
    let path = dir.join(name);
    std::fs::write(&path, text).expect("a temporary folder can be written");
    path.to_str().expect("temporary paths are text").to_owned()
}

fn time(mut work: impl FnMut()) -> Duration {
    let mut taken: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed()
        })
        .collect();
    taken.sort();
    taken[ROUNDS / 2]
}

fn run(home: &Path, pipeline: &str) {
    let status = devo(home, &["run", "--pipeline", pipeline]).status().expect("devo starts");
    assert!(status.success(), "{pipeline} did not complete");
}

fn shells(count: usize) {
    for _ in 0..count {
        assert!(Command::new("sh").args(["-c", "true"]).status().expect("sh starts").success());
    }
}

fn main() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let home = dir.path().join("home");
    assert!(
        devo(&home, &["init", home.to_str().expect("temporary paths are text")])
            .status()
            .expect("devo starts")
            .success()
    );
    let one = pipeline(dir.path(), "one.yaml", 1, true);
    let chain = pipeline(dir.path(), "chain.yaml", 200, true);
    let fan = pipeline(dir.path(), "fan.yaml", 1000, false);
    let (plain_200, plain_1000) = (time(|| shells(200)), time(|| shells(1000)));
    println!("{:<34} {:>9}  per step  ratio to a plain shell", "median of 3", "wall");
    let show = |name: &str, taken: Duration, count: u32, plain: Duration| {
        let ratio = taken.as_secs_f64() / plain.as_secs_f64();
        println!(
            "{name:<34} {:>7.2} s  {:>5.1} ms  {ratio:>5.1}×",
            taken.as_secs_f64(),
            taken.as_secs_f64() * 1e3 / f64::from(count)
        );
    };
    show("plain loop, 200 shells", plain_200, 200, plain_200);
    show("plain loop, 1,000 shells", plain_1000, 1000, plain_1000);
    for sandbox in ["host", "bubblewrap"] {
        let config = format!("repos: {{}}\nsandbox: {{type: {sandbox}}}\n");
        std::fs::write(home.join("devo.yaml"), config).expect("the home can be written");
        show(&format!("{sandbox}: one step"), time(|| run(&home, &one)), 1, plain_200 / 200);
        show(&format!("{sandbox}: chain of 200"), time(|| run(&home, &chain)), 200, plain_200);
        show(&format!("{sandbox}: fan-out of 1,000"), time(|| run(&home, &fan)), 1000, plain_1000);
    }
}
