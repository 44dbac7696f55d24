//! The daemon under a crowd, with the real binary: 500 runs that wait for a person beside 10,000 that ended, and 50 viewers
//! (memory, CPU while nothing happens, pages, and an event's way to the viewers); 1,000 queued tasks of four repositories
//! (throughput, fairness); a dropped file's way to its first step; and 10,000 files at once. Every task is a no-op or the
//! shortest command, on the host: what is measured is the daemon, not the work. `cargo bench --bench daemon [PART…]` prints the
//! figures; nothing is asserted, machines are noisy.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use devo::core::event::{Ending, Event, EventBody, Question, QuestionKind, RunLimits, RunSpec, Who};
use devo::core::id::{RunId, StepId};
use devo::core::plan::{Estimate, Plan, PlanRecord};
use devo::core::time::Timestamp;
use devo::journal::{Durability, Journal, SqliteJournal, Summary};
use serde_json::{Value, json};

const WAITING: u32 = 500;
const ENDED: u32 = 10_000;
const VIEWERS: usize = 50;
const IDLE: Duration = Duration::from_secs(30);
const QUEUED: usize = 1_000;
const DROPS: usize = 100;
const FLOOD: usize = 10_000;
const REPOS: [&str; 4] = ["a", "b", "c", "d"];

/// Nothing is run: the step is skipped, and the run completes.
const NO_OP: &str = "pipeline: {steps: {a: {type: shell, if: 'false', run: 'true'}}}\n";

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_millis()).expect("a present time")
}

/// The value below which so many hundredths lie.
fn percentile(values: &mut [f64], hundredths: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() * hundredths / 100).min(values.len() - 1)]
}

fn told(what: &str, values: &mut [f64]) {
    let (half, most, all) = (percentile(values, 50), percentile(values, 95), percentile(values, 100));
    println!("  {what}: p50 {half:.1} ms, p95 {most:.1} ms, most {all:.1} ms ({} values)", values.len());
}

/// A home of its own, and the binary over it.
struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new(limits: &str) -> Self {
        let home = Self { dir: tempfile::tempdir().expect("a temporary folder") };
        home.devo(&["init", home.path().to_str().expect("UTF-8")]);
        let repos: String = REPOS.map(|name| format!("  {name}: {{url: /nowhere/{name}.git, base: main}}\n")).concat();
        let config = format!("repos:\n{repos}sandbox: {{type: host}}\nweb: {{listen: '127.0.0.1:0'}}\n{limits}\n");
        std::fs::write(home.path().join("devo.yaml"), config).expect("the home can be written");
        home
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    fn inbox(&self) -> PathBuf {
        self.path().join("inbox")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_devo"));
        command.args(args).current_dir(self.dir.path()).env_clear().env("DEVO_HOME", self.path());
        for name in ["PATH", "HOME"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command.stdin(Stdio::null());
        command
    }

    fn devo(&self, args: &[&str]) -> String {
        let output = self.command(args).output().expect("devo starts");
        assert!(output.status.success(), "devo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    }

    fn journal(&self) -> SqliteJournal {
        SqliteJournal::open(&self.path().join("state.db"), Durability::Normal, false).expect("the journal opens")
    }
}

/// A daemon over a home, with a signed-in browser's cookie.
struct Daemon {
    child: Child,
    address: SocketAddr,
    cookie: String,
    bearer: String,
    visits: AtomicUsize,
}

impl Daemon {
    fn start(home: &Home) -> Self {
        let mut child =
            home.command(&["serve"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("devo starts");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped"));
        let address = loop {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).expect("a line") > 0, "the daemon ended");
            if let Some((_, rest)) = line.split_once(" http://") {
                break rest.split_whitespace().next().expect("an address").parse().expect("an address");
            }
        };
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        let mut daemon =
            Self { child, address, cookie: String::new(), bearer: String::new(), visits: AtomicUsize::new(0) };
        let (status, _) = daemon.ask("GET", "/healthz", &[], "");
        assert_eq!(status, 200);
        let token = std::fs::read_to_string(home.path().join("token")).expect("the owner's token");
        daemon.bearer = format!("Bearer {}", token.trim());
        let link = home.devo(&["login-link"]);
        let (base, secret) = link.split_once("/login?link=").expect("a link");
        let form = "application/x-www-form-urlencoded";
        let (status, head) =
            daemon.ask("POST", "/login", &[("origin", base), ("content-type", form)], &format!("link={secret}"));
        assert_eq!(status, 303);
        let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
        daemon.cookie = cookie.split(';').next().expect("a pair").to_owned();
        daemon
    }

    /// A connection from an address of its own: tries are limited by address.
    fn connect(&self) -> TcpStream {
        let visit = self.visits.fetch_add(1, Ordering::Relaxed);
        let from = Ipv4Addr::new(127, 1, u8::try_from(visit / 200 % 200).expect("below 200"), 1 + (visit % 200) as u8);
        let (family, kind) = (rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM);
        let socket = rustix::net::socket(family, kind, None).expect("a socket");
        rustix::net::bind(&socket, &SocketAddrV4::new(from, 0)).expect("an address of this machine");
        rustix::net::connect(&socket, &self.address).expect("the daemon listens");
        TcpStream::from(socket)
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> BufReader<TcpStream> {
        let mut stream = self.connect();
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.address);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        stream.write_all(head.as_bytes()).expect("the daemon reads");
        BufReader::new(stream)
    }

    /// The status, and everything that came, head and body.
    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        let mut bytes = Vec::new();
        self.send(method, path, headers, body).read_to_end(&mut bytes).expect("an answer");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let status = text.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
        (status, text)
    }

    fn page(&self, path: &str) -> String {
        let (status, text) = self.ask(
            "GET",
            path,
            &[("cookie", &self.cookie), ("accept", "text/html"), ("accept-encoding", "gzip")],
            "",
        );
        assert_eq!(status, 200, "{path}");
        text
    }

    fn api(&self, path: &str) -> String {
        let (status, text) = self.ask("GET", path, &[("authorization", &self.bearer)], "");
        assert_eq!(status, 200, "{path}");
        text
    }

    /// Server-sent events, each with the time of its arrival.
    fn events(&self, path: &str, mut each: impl FnMut(i64, &str, &Value) -> bool) {
        let stream = self.send("GET", path, &[("authorization", &self.bearer), ("cookie", &self.cookie)], "");
        let mut name = String::new();
        for line in stream.lines().map_while(Result::ok) {
            if let Some(word) = line.strip_prefix("event: ").or_else(|| line.strip_prefix("event:")) {
                name = word.trim().to_owned();
            } else if let Some(data) = line.strip_prefix("data: ").or_else(|| line.strip_prefix("data:")) {
                let at = now_ms();
                let data = serde_json::from_str(data.trim()).unwrap_or(Value::Null);
                if !each(at, &name, &data) {
                    return;
                }
            }
        }
    }

    fn submit(&self, task: &Value) -> String {
        let headers = [("authorization", self.bearer.as_str()), ("content-type", "application/json")];
        let (status, text) = self.ask("POST", "/api/v1/runs", &headers, &task.to_string());
        assert_eq!(status, 201, "{text}");
        text.split("location: /api/v1/runs/").nth(1).expect("a location")[..36].to_owned()
    }

    /// Milliseconds of CPU that it has used.
    fn cpu_ms(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it lives");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().expect("a number")).sum();
        ticks * 1000.0 / rustix::param::clock_ticks_per_second() as f64
    }

    fn memory_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").trim().parse::<f64>().expect("a number") / 1024.0
    }

    /// Waits until it has done what there was to do.
    fn settle(&self) {
        let mut before = f64::MIN;
        loop {
            let used = self.cpu_ms();
            if used - before < 20.0 {
                return;
            }
            before = used;
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ =
            rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

const PLANS: &str = "{name: plans, steps: {plan: {type: plan}, approve: {type: approve, needs: plan, revise: plan}}}";

fn step(id: &str) -> StepId {
    StepId::new(id).expect("a step's name")
}

/// A run as an engine would have left it: its plan waits for an approval, or it ended.
async fn seed(journal: &SqliteJournal, at: u32, waits: bool) -> RunId {
    let document = devo::yaml::parse("p", PLANS).expect("it is YAML");
    let read = devo::pipeline::read(&document).expect("it is a pipeline");
    let repo = Some(REPOS[at as usize % REPOS.len()].to_owned());
    let run = RunId(uuid::Uuid::now_v7());
    let who = Who { by: "bench".to_owned(), channel: "cli".to_owned() };
    let spec = RunSpec {
        task_id: run,
        pipeline: read.name.clone(),
        pipeline_text: read.text.clone(),
        pipeline_hash: read.hash.clone(),
        repo: repo.clone(),
        base: None,
        task: format!("Task number {at}, which says in a line what somebody wants"),
        inputs: serde_json::Map::new(),
        key: None,
        notify: Vec::new(),
        who,
        graph: read.nodes(),
        limits: RunLimits { usd: None, tokens: None, wall_ms: None, parallel: 1 },
        cassette: None,
        sandbox: "host".to_owned(),
    };
    let plan: Plan = serde_json::from_value(json!({
        "title": "A plan", "summary": "Some lines of it. ".repeat(20),
        "steps": [{"id": "s1", "title": "One", "intent": "Why", "files": [{"path": "src/a.rs", "action": "modify", "why": "it"}],
                   "verify": [{"check": "test"}]}],
        "criteria": [{"id": "c1", "text": "It works", "check": {"kind": "test", "ref": "test"}}],
    }))
    .expect("it is a plan");
    let record = PlanRecord::new(plan, Estimate::default(), 1, "0".repeat(40), &read.hash);
    let question = Question { kind: QuestionKind::Approval, text: "Approve revision 1 of the plan".to_owned() };
    let started = |id: &str| EventBody::StepStarted { step: step(id), attempt: 1, round: 1, turn: 1 };
    let mut bodies = vec![
        EventBody::Accepted(Box::new(spec.clone())),
        started("plan"),
        EventBody::StepSucceeded { step: step("plan"), output: serde_json::to_value(record).expect("plain data") },
        started("approve"),
    ];
    bodies.push(match waits {
        true => EventBody::StepAsked { step: step("approve"), question, carry: Value::Null },
        false => EventBody::StepSucceeded { step: step("approve"), output: json!({}) },
    });
    let status = if waits { "PLANNED" } else { "COMPLETED" };
    if !waits {
        bodies.push(EventBody::Finished { status: Ending::Completed, error: None });
    }
    let at = Timestamp(now_ms());
    let mut events: Vec<Event> = (1..).zip(bodies).map(|(seq, body)| Event { seq, at, body }).collect();
    let summary = Summary {
        status: status.to_owned(),
        pipeline: spec.pipeline,
        repo,
        task: spec.task,
        waiting_for: waits.then(|| "approval".to_owned()),
        ended: !waits,
    };
    let rest = events.split_off(1);
    journal.accept(events.remove(0), summary.clone()).await.expect("it is accepted");
    journal.append(run, rest, summary).await.expect("it is appended");
    run
}

/// Steps one after the other, each a moment long.
fn chain(steps: usize, seconds: &str) -> Value {
    let steps: serde_json::Map<String, Value> = (0..steps)
        .map(|at| {
            let needs = at.checked_sub(1).map(|before| format!("s{before}"));
            let mut step = json!({"type": "shell", "run": format!("sleep {seconds}")});
            if let Some(needs) = needs {
                step["needs"] = needs.into();
            }
            (format!("s{at}"), step)
        })
        .collect();
    json!({"pipeline": {"steps": steps}})
}

fn at_of(event: &Value) -> Option<i64> {
    serde_json::from_value::<Timestamp>(event["at"].clone()).ok().map(|at| at.0)
}

fn crowd(runtime: &tokio::runtime::Runtime) {
    println!("{WAITING} waiting and {ENDED} ended runs, {VIEWERS} viewers");
    let home = Home::new("");
    let journal = home.journal();
    let waiting = runtime.block_on(async {
        let mut waiting = Vec::new();
        for at in 0..WAITING {
            waiting.push(seed(&journal, at, true).await);
        }
        let journal = &journal;
        for at in (0..ENDED).step_by(100) {
            futures_util::future::join_all((at..at + 100).map(|at| seed(journal, at, false))).await;
        }
        waiting
    });
    drop(journal);
    let began = Instant::now();
    let daemon = Daemon::start(&home);
    println!("  it answers after {:.0} ms", began.elapsed().as_secs_f64() * 1000.0);
    daemon.settle();
    let metrics = daemon.api("/metrics");
    assert!(metrics.contains(&format!("devo_runs_waiting_human {WAITING}\n")), "{metrics}");
    println!("  memory without viewers: {:.0} MiB", daemon.memory_mib());

    let run = waiting[waiting.len() / 2];
    for (path, cookie) in [
        ("/".to_owned(), true),
        (format!("/runs/{run}"), true),
        (format!("/runs/{run}?part=live"), true),
        ("/api/v1/runs".to_owned(), false),
        ("/api/v1/runs?status=planned".to_owned(), false),
        ("/api/v1/runs?status=completed&repo=c".to_owned(), false),
        (format!("/api/v1/runs?cursor={run}"), false),
        (format!("/api/v1/runs/{run}"), false),
        ("/metrics".to_owned(), false),
    ] {
        let mut took = Vec::new();
        for _ in 0..200 {
            let began = Instant::now();
            if cookie {
                daemon.page(&path)
            } else {
                daemon.api(&path)
            };
            took.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        told(&format!("GET {}", path.replace(&run.to_string(), "ID")), &mut took);
    }

    std::thread::scope(|scope| {
        let daemon = &daemon;
        let listed = Arc::new(Mutex::new(Vec::new()));
        // Half of them look at a run, half at the list; they are there while nothing happens, and while it does.
        for (viewer, run) in waiting.iter().enumerate().take(VIEWERS) {
            let path = if viewer % 2 == 0 { format!("/api/v1/runs/{run}/events") } else { "/live".to_owned() };
            let listed = listed.clone();
            scope.spawn(move || {
                daemon.events(&path, |at, name, _| {
                    if name == "changed" {
                        listed.lock().expect("no panic").push(at);
                    }
                    true
                });
            });
        }
        daemon.settle();
        println!("  memory with viewers: {:.0} MiB", daemon.memory_mib());
        let (before, began) = (daemon.cpu_ms(), Instant::now());
        std::thread::sleep(IDLE);
        let used = (daemon.cpu_ms() - before) / began.elapsed().as_secs_f64() / 10.0;
        println!("  CPU while nothing happens: {used:.2} % of one core, over {} s", IDLE.as_secs());

        // As many more look at one run that is at work; every second one fetches the page's live part at each event, as the
        // page's script does.
        let run = daemon.submit(&chain(60, "0.3"));
        let (heard, seen) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        let (before, began) = (daemon.cpu_ms(), Instant::now());
        std::thread::scope(|scope| {
            for viewer in 0..VIEWERS {
                let (run, heard, seen) = (&run, &heard, &seen);
                scope.spawn(move || {
                    daemon.events(&format!("/api/v1/runs/{run}/events?after=10"), |at, name, event| {
                        if let Some(recorded) = at_of(event).filter(|_| name == "step_succeeded") {
                            heard.lock().expect("no panic").push((at - recorded) as f64);
                            if viewer % 2 == 0 {
                                daemon.page(&format!("/runs/{run}?part=live"));
                                seen.lock().expect("no panic").push((now_ms() - recorded) as f64);
                            }
                        }
                        name != "result"
                    });
                });
            }
        });
        let used = (daemon.cpu_ms() - before) / began.elapsed().as_secs_f64() / 10.0;
        told("event → viewer", &mut heard.into_inner().expect("no panic"));
        told("event → viewer's fresh page", &mut seen.into_inner().expect("no panic"));
        println!("  CPU meanwhile: {used:.0} % of one core; memory {:.0} MiB", daemon.memory_mib());
        println!("  the list's viewers were called {} times", listed.lock().expect("no panic").len());
        // The streams of the waiting runs end with the daemon only.
        let pid = rustix::process::Pid::from_child(&daemon.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it lives");
    });
}

/// The repository of each task.
type Share = fn(usize) -> &'static str;

/// Every run of a home with its first and last moment, in the order in which they ended.
fn ended(home: &Home, runtime: &tokio::runtime::Runtime) -> Vec<(Option<String>, i64, i64)> {
    let journal = home.journal();
    let rows = runtime.block_on(journal.runs(usize::MAX)).expect("the runs are read");
    let mut all: Vec<_> = rows.into_iter().map(|row| (row.summary.repo, row.created_at.0, row.updated_at.0)).collect();
    all.sort_by_key(|(_, _, ended)| *ended);
    all
}

/// Files made beside the inbox, so that all of them can come at once.
fn prepare(home: &Home, count: usize, text: impl Fn(usize) -> String) -> Vec<(PathBuf, PathBuf)> {
    let aside = home.dir.path().join("aside");
    std::fs::create_dir_all(&aside).expect("a folder");
    let file = |at: usize| {
        let (from, to) = (aside.join(format!("t{at:05}.yaml")), home.inbox().join(format!("t{at:05}.yaml")));
        std::fs::write(&from, text(at)).expect("a file");
        (from, to)
    };
    (0..count).map(file).collect()
}

fn drop_all(files: &[(PathBuf, PathBuf)]) {
    for (from, to) in files {
        std::fs::rename(from, to).expect("one file system");
    }
}

fn count(daemon: &Daemon, figure: &str) -> usize {
    let metrics = daemon.api("/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix(figure)).expect("it is told");
    line.trim().parse().expect("a number")
}

/// Drops files and waits until all of them are accepted, and ended; the answer is how many of each in a second.
fn flood(daemon: &Daemon, files: &[(PathBuf, PathBuf)], done: &Path) -> (f64, f64) {
    let began = Instant::now();
    drop_all(files);
    let (mut accepted, all) = (None, files.len() as f64);
    loop {
        if accepted.is_none() && std::fs::read_dir(done).map_or(0, Iterator::count) >= files.len() {
            accepted = Some(began.elapsed().as_secs_f64());
        }
        if count(daemon, "devo_runs{status=\"COMPLETED\"}") >= files.len() {
            let over = began.elapsed().as_secs_f64();
            return (all / accepted.unwrap_or(over), all / over);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn queue(runtime: &tokio::runtime::Runtime) {
    println!("{QUEUED} queued tasks of {} repositories", REPOS.len());
    let shares: [(&str, Share); 2] = [
        ("equal shares", |at| REPOS[at % 4]),
        ("one has 70 % and is first", |at| if at < QUEUED * 7 / 10 { REPOS[0] } else { REPOS[1 + at % 3] }),
    ];
    for (name, share) in shares {
        let home = Home::new("limits: {runs: 4, per_repo: 2}");
        let files = prepare(&home, QUEUED, |at| {
            format!("repo: {}\npipeline: {{steps: {{a: {{type: shell, run: 'true'}}}}}}\n", share(at))
        });
        let daemon = Daemon::start(&home);
        let (_, rate) = flood(&daemon, &files, &home.inbox().join("done"));
        drop(daemon);
        let all = ended(&home, runtime);
        let first = all.iter().map(|(_, began, _)| *began).min().unwrap_or(0);
        let mut waits: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let mut last: BTreeMap<String, usize> = BTreeMap::new();
        for (place, (repo, began, over)) in all.iter().enumerate() {
            let repo = repo.clone().unwrap_or_default();
            waits.entry(repo.clone()).or_default().push((over - began.max(&first)) as f64 / 1000.0);
            last.insert(repo, place + 1);
        }
        let means: Vec<(String, f64)> =
            waits.into_iter().map(|(repo, waits)| (repo, waits.iter().sum::<f64>() / waits.len() as f64)).collect();
        let least = means.iter().map(|(_, mean)| *mean).fold(f64::MAX, f64::min);
        let most = means.iter().map(|(_, mean)| *mean).fold(0.0, f64::max);
        println!(
            "  {name}: {rate:.0} runs/s; mean waits {means:.1?} s, ratio {:.2}; last one of each ended as number {last:?}",
            most / least
        );
    }
}

fn first_step(runtime: &tokio::runtime::Runtime) {
    println!("from a dropped file to its first step, {DROPS} times");
    let home = Home::new("");
    let trace = home.dir.path().join("trace");
    let text = |at: usize| {
        format!("pipeline: {{steps: {{a: {{type: shell, run: 'date +%s%3N > {}-{at}'}}}}}}\n", trace.display())
    };
    let files = prepare(&home, DROPS, text);
    let daemon = Daemon::start(&home);
    daemon.settle();
    let mut began = Vec::new();
    let mut commands = Vec::new();
    for (at, file) in files.iter().enumerate() {
        let dropped = now_ms();
        drop_all(std::slice::from_ref(file));
        began.push(dropped);
        let path = format!("{}-{at}", trace.display());
        let at = loop {
            match std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<i64>().ok()) {
                Some(at) => break at,
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        commands.push((at - dropped) as f64);
        // Its end does not weigh on the next one.
        while count(&daemon, "devo_runs{status=\"COMPLETED\"}") < began.len() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    drop(daemon);
    let journal = home.journal();
    let events = runtime.block_on(journal.feed(0, usize::MAX)).expect("the events are read");
    let starts = events.iter().filter(|(_, _, event)| matches!(event.body, EventBody::StepStarted { .. }));
    let mut starts: Vec<f64> =
        starts.zip(&began).map(|((_, _, event), dropped)| (event.at.0 - dropped) as f64).collect();
    told("until the step starts", &mut starts);
    told("until its command runs", &mut commands);
}

fn files_at_once() {
    for (name, count, text) in [
        ("no-op", FLOOD, NO_OP),
        ("`true` on the host", FLOOD / 10, "pipeline: {steps: {a: {type: shell, run: 'true'}}}\n"),
    ] {
        println!("{count} files at once, each a {name}");
        let home = Home::new("");
        let files = prepare(&home, count, |_| text.to_owned());
        let daemon = Daemon::start(&home);
        daemon.settle();
        let before = daemon.cpu_ms();
        let began = Instant::now();
        let (accepted, over) = flood(&daemon, &files, &home.inbox().join("done"));
        let used = (daemon.cpu_ms() - before) / began.elapsed().as_secs_f64() / 10.0;
        println!(
            "  accepted {accepted:.0}/s, ended {over:.0}/s; CPU {used:.0} % of one core; memory {:.0} MiB",
            daemon.memory_mib()
        );
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let parts: [(&str, &dyn Fn()); 4] = [
        ("crowd", &|| crowd(&runtime)),
        ("queue", &|| queue(&runtime)),
        ("first", &|| first_step(&runtime)),
        ("flood", &files_at_once),
    ];
    for (name, part) in parts {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            part();
        }
    }
}
