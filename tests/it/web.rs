//! The daemon's web channel, with the real binary on a port of its own: everything the API promises, and runs that begin on
//! one channel and end on another.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::daemon::until;
use crate::fake::{Answer, claude};
use crate::http::{Events, Reply, send, signature};
use crate::main_job::{executor, plan, script};
use crate::world::World;

/// A daemon over a world's home.
pub struct Daemon {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub address: String,
    pub token: String,
    said: Arc<Mutex<String>>,
}

impl Daemon {
    /// Starts `devo serve` and waits until its web channel is open.
    pub fn start(world: &World) -> Self {
        Self::start_with(world, &[])
    }

    pub fn start_with(world: &World, environment: &[(&str, &str)]) -> Self {
        let mut command = world.command(&["serve"]);
        command.envs(environment.iter().copied()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let said = Arc::new(Mutex::new(String::new()));
        let address = loop {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).unwrap() > 0, "it ended: {}", said.lock().unwrap());
            said.lock().unwrap().push_str(&line);
            // As a note for people or as a line of the log: the address is the same.
            let ours = line.starts_with("web: ") || line.contains("channel=\"web\"");
            if let Some((_, rest)) = line.split_once(" http://").filter(|_| ours) {
                break rest.split_whitespace().next().unwrap().to_owned();
            }
        };
        let shared = said.clone();
        std::thread::spawn(move || keep(lines, &shared));
        // The token is written before the first request can be answered.
        assert_eq!(send(&address, "GET", "/healthz", &[], "").status, 200);
        let token = std::fs::read_to_string(world.home().join("token")).unwrap().trim().to_owned();
        Self { child, address, token, said }
    }

    pub fn request(&self, method: &str, path: &str, more: &[(&str, &str)], body: &str) -> Reply {
        let bearer = format!("Bearer {}", self.token);
        let mut headers = vec![("authorization", bearer.as_str()), ("content-type", "application/json")];
        headers.extend_from_slice(more);
        send(&self.address, method, path, &headers, body)
    }

    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[], "")
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.request("POST", path, &[], &body.to_string())
    }

    pub fn events(&self, run: &str, after: Option<u64>) -> Events {
        let bearer = format!("Bearer {}", self.token);
        let after = after.map(|after| after.to_string());
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend(after.as_deref().map(|after| ("last-event-id", after)));
        Events::open(&self.address, &format!("/api/v1/runs/{run}/events"), &headers)
    }

    pub fn submit(&self, body: &Value) -> String {
        self.post("/api/v1/runs", body).status(201).json()["task_id"].as_str().unwrap().to_owned()
    }

    pub fn run(&self, id: &str) -> Value {
        self.get(&format!("/api/v1/runs/{id}")).status(200).json()
    }

    /// Waits for an event of a run.
    pub fn until(&self, run: &str, event: &str, times: usize) {
        let found = self.events(run, None).filter(|sent| sent.event == event).take(times).count();
        assert_eq!(found, times, "{event} did not come: {:#}", self.run(run));
    }

    /// Has it read its settings again, and waits until it says what came of it.
    fn reload(&self, says: &str) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::HUP)
            .unwrap();
        until(|| self.said.lock().unwrap().contains(says).then_some(()));
    }

    /// Ends it as a service manager would; everything that it said is the answer.
    pub fn stop(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let code = self.child.wait().unwrap().code();
        let said = self.said.lock().unwrap().clone();
        assert_eq!(code, Some(0), "{said}");
        said
    }
}

fn keep(lines: BufReader<ChildStderr>, said: &Mutex<String>) {
    for line in lines.lines().map_while(Result::ok) {
        said.lock().unwrap().push_str(&(line + "\n"));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Already gone after `stop`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const FREE_PORT: &str = "web: {listen: '127.0.0.1:0'}";

fn shop() -> World {
    let world = World::shop();
    world.configure(FREE_PORT);
    world
}

fn task() -> Value {
    json!({"pipeline": "dev-task", "repo": "shop", "task": "Validar stock negativo en ventas"})
}

fn shell(run: &str) -> Value {
    json!({"pipeline": {"steps": {"a": {"type": "shell", "run": run}}}})
}

#[test]
fn a_task_goes_from_the_api_to_a_pushed_branch() {
    let world = shop();
    script(&world.fake);
    let daemon = Daemon::start(&world);
    let made = daemon.request("POST", "/api/v1/runs", &[("idempotency-key", "one")], &task().to_string()).status(201);
    let run = made.json()["task_id"].as_str().unwrap().to_owned();
    assert_eq!(made.header("location"), Some(format!("/api/v1/runs/{run}").as_str()));
    let again = daemon.request("POST", "/api/v1/runs", &[("idempotency-key", "one")], &task().to_string()).status(200);
    assert_eq!(again.json()["task_id"], run.as_str());
    daemon.until(&run, "step_asked", 1);
    let waiting = daemon.run(&run);
    assert_eq!(
        (waiting["status"].as_str(), waiting["waiting_for"]["kind"].as_str()),
        (Some("PLANNED"), Some("approval"))
    );

    let signals = format!("/api/v1/runs/{run}/signals");
    let hash = waiting["plan"]["hash"].as_str().unwrap();
    daemon.post(&signals, &json!({"signal": "approve"})).status(400);
    let stale = daemon.post(&signals, &json!({"signal": "approve", "plan_hash": "sha256:00"})).status(409);
    assert_eq!(stale.json()["current"]["plan_hash"], hash);
    daemon.post(&signals, &json!({"signal": "approve", "plan_hash": hash, "text": "go"})).status(200);
    let twice = daemon.post(&signals, &json!({"signal": "approve", "plan_hash": hash})).status(409);
    assert!(twice.json()["detail"].as_str().unwrap().contains("was approved by owner (api)"), "{}", twice.body);

    let all: Vec<_> = daemon.events(&run, None).collect();
    let last = all.last().unwrap();
    assert_eq!((last.event.as_str(), last.id), ("result", None));
    assert_eq!(last.data["run"]["status"], "COMPLETED");
    assert_eq!(last.data["run"], daemon.run(&run));
    assert!(all.iter().rev().skip(1).all(|sent| sent.data["event"] == sent.event.as_str()));
    let ids: Vec<u64> = all.iter().filter_map(|sent| sent.id).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>(), "ids are the journal's numbers, without a gap");
    // Whoever was cut off goes on where it stopped.
    for after in [1, 7, ids.len() as u64] {
        let rest: Vec<_> = daemon.events(&run, Some(after)).filter_map(|sent| sent.id).collect();
        assert_eq!(rest, ids[after as usize..]);
    }
    // The same lines as `run --json` has: the stored event in its envelope.
    assert_eq!(all[0].data["task_id"], run.as_str());
    assert!(serde_json::to_string(&all[0].data).unwrap().starts_with("{\"event\":\"accepted\",\"task_id\":"));

    let diff = daemon.get(&format!("/api/v1/runs/{run}/diff")).status(200).json();
    assert_eq!(diff["files"][0], json!({"path": "src/ventas.rs", "added": 6, "removed": 0}), "{diff:#}");
    let plans = daemon.get(&format!("/api/v1/runs/{run}/plan")).status(200).json();
    assert_eq!((&plans["plan"]["hash"], plans["revisions"].as_array().unwrap().len()), (&json!(hash), 1));
    let logs = daemon.get(&format!("/api/v1/runs/{run}/logs?step=test&limit=5")).status(200).json();
    assert_eq!(logs["lines"].as_array().unwrap().len(), 5);
    let place = logs["next"].as_str().unwrap();
    let rest = daemon.get(&format!("/api/v1/runs/{run}/logs?step=test&after={place}")).status(200).json();
    assert_eq!(rest["lines"], json!([]), "the last lines were read");
    let metrics = daemon.get("/metrics").status(200).body;
    for wanted in [
        "devo_runs{status=\"COMPLETED\"} 1\n",
        "devo_approval_wait_seconds_count 1\n",
        "devo_step_duration_seconds_count{type=\"execute-loop\"} 1\n",
        "devo_calls_total{role=\"planner\"} 2\n",
        "devo_tokens_total{role=\"executor\",direction=\"output\"}",
    ] {
        assert!(metrics.contains(wanted), "{wanted:?} is missing in\n{metrics}");
    }
    assert!(!metrics.contains(&run));
    let description = daemon.get("/api/openapi.json").status(200).json();
    let mut schema = json!({"$ref": "#/components/schemas/Run"});
    schema["components"] = description["components"].clone();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let wrong: Vec<String> = validator.iter_errors(&daemon.run(&run)).map(|error| error.to_string()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let said = daemon.stop();
    assert!(!said.contains(" ERROR ") && !said.contains("panicked"), "{said}");
    let token = std::fs::read_to_string(world.home().join("token")).unwrap();
    let journal = std::fs::read(world.home().join("state.db")).unwrap();
    assert!(!journal.windows(token.trim().len()).any(|window| window == token.trim().as_bytes()));
}

#[test]
fn what_begins_on_one_channel_ends_on_the_other() {
    let world = shop();
    let daemon = Daemon::start(&world);
    // From the API to the command line.
    script(&world.fake);
    let run = daemon.submit(&task());
    daemon.until(&run, "step_asked", 1);
    world.devo(&["plan", &run]).code(0);
    world.devo(&["approve", &run]).code(0);
    daemon.until(&run, "finished", 1);
    let done = daemon.run(&run);
    assert_eq!((done["status"].as_str(), done["approval"]["channel"].as_str()), (Some("COMPLETED"), Some("cli")));
    assert_eq!(world.status(&run), done, "both say the same");
    daemon.stop();

    // From the command line (a revision there, too) to the API.
    world.fake.planner(claude(&[("submit_plan", plan("Primer plan"))]));
    let args = ["run", "--pipeline", "dev-task", "--repo", "shop", "--task", "Otra", "--no-watch", "--json"];
    let run = world.devo(&args).code(3).lines()[0]["task_id"].as_str().unwrap().to_owned();
    let daemon = Daemon::start(&world);
    world.fake.planner(claude(&[("submit_plan", plan("Segundo plan"))]));
    let signals = format!("/api/v1/runs/{run}/signals");
    let first = daemon.run(&run)["plan"]["hash"].as_str().unwrap().to_owned();
    daemon.post(&signals, &json!({"signal": "revise", "text": "también en devoluciones"})).status(200);
    daemon.until(&run, "step_asked", 2);
    daemon.post(&signals, &json!({"signal": "approve", "plan_hash": first})).status(409);
    executor(&world.fake);
    let second = daemon.run(&run)["plan"]["hash"].as_str().unwrap().to_owned();
    daemon.post(&signals, &json!({"signal": "approve", "plan_hash": second})).status(200);
    daemon.until(&run, "finished", 1);
    let done = world.status(&run);
    assert_eq!((done["status"].as_str(), done["approval"]["channel"].as_str()), (Some("COMPLETED"), Some("api")));

    // An abort from either stops it everywhere.
    for from_cli in [true, false] {
        world.fake.planner(claude(&[("submit_plan", plan("Otro plan"))]));
        let run = daemon.submit(&task());
        daemon.until(&run, "step_asked", 1);
        if from_cli {
            world.devo(&["abort", &run]).code(0);
        } else {
            daemon.post(&format!("/api/v1/runs/{run}/signals"), &json!({"signal": "abort"})).status(200);
        }
        daemon.until(&run, "finished", 1);
        assert_eq!(world.status(&run)["status"], "ABORTED");
    }
    daemon.stop();
}

#[test]
fn streams_are_live_and_end_with_the_daemon() {
    let world = shop();
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    world.fake.planner(Answer::Held(gate.clone(), Box::new(claude(&[("submit_plan", plan("Plan"))]))));
    let daemon = Daemon::start(&world);
    let run = daemon.submit(&task());
    let mut live = daemon.events(&run, None);
    assert_eq!(live.by_ref().take(2).map(|sent| sent.event).collect::<Vec<_>>(), ["accepted", "step_started"]);
    assert_eq!(live.next().unwrap().event, "call_started");
    drop(held);
    let seen: Vec<String> = live.by_ref().map(|sent| sent.event).take_while(|event| event != "step_asked").collect();
    assert!(seen.contains(&"step_succeeded".to_owned()), "{seen:?}");
    // The run waits for a person; the daemon goes, and the stream ends without a result.
    let reader = std::thread::spawn(move || live.map(|sent| sent.event).collect::<Vec<_>>());
    daemon.stop();
    assert!(!reader.join().unwrap().contains(&"result".to_owned()));
}

#[test]
fn a_failed_run_is_retried_and_lines_come_live() {
    let world = World::bare();
    std::fs::write(world.home().join("devo.yaml"), format!("{FREE_PORT}\n")).unwrap();
    let daemon = Daemon::start(&world);
    let run = daemon.submit(&shell("echo one; echo two >&2; test -e flag || { echo > flag; exit 3; }"));
    let bearer = format!("Bearer {}", daemon.token);
    let headers = [("authorization", bearer.as_str()), ("accept", "text/event-stream")];
    let lines: Vec<Value> =
        Events::open(&daemon.address, &format!("/api/v1/runs/{run}/logs"), &headers).map(|sent| sent.data).collect();
    let find = |text: &str| lines.iter().find(|line| line["text"] == text).unwrap_or_else(|| panic!("{lines:?}"));
    assert_eq!((&find("one")["stream"], &find("two")["stream"]), (&json!("stdout"), &json!("stderr")));
    daemon.until(&run, "finished", 1);
    assert_eq!(daemon.run(&run)["status"], "FAILED");
    let signals = format!("/api/v1/runs/{run}/signals");
    daemon.post(&signals, &json!({"signal": "retry", "from": "nope"})).status(422);
    daemon.post(&signals, &json!({"signal": "retry"})).status(200);
    daemon.until(&run, "finished", 2);
    assert_eq!(daemon.run(&run)["status"], "COMPLETED");
    daemon.post(&signals, &json!({"signal": "retry"})).status(409);
    daemon.stop();
}

#[test]
fn hooks_submit_what_is_signed_once() {
    let world = World::bare();
    let config = "web:\n  listen: 127.0.0.1:0\n  hooks:\n    ci: {secret: CI_HOOK, pipeline: hello}\n";
    std::fs::write(world.home().join("devo.yaml"), config).unwrap();
    world.write(
        "home/pipelines/hello.yaml",
        "name: hello\ninputs: {task: {type: string}}\nsteps: {a: {type: shell, run: 'echo {{ inputs.task }}'}}\n",
    );
    // Without its secret the daemon does not start.
    let refused = world.devo(&["serve"]).code(2);
    assert!(refused.stderr.contains("CI_HOOK is not set"), "{}", refused.stderr);
    let daemon = Daemon::start_with(&world, &[("CI_HOOK", "a secret between two")]);
    let body = r#"{"task": "hola $(touch /tmp/never)"}"#;
    let knock = |name: &str, signature: &str| {
        send(&daemon.address, "POST", &format!("/hooks/{name}"), &[("x-hub-signature-256", signature)], body)
    };
    let right = signature("a secret between two", body);
    let (wrong, unknown) = (knock("ci", &signature("guess", body)).status(401), knock("no", &right).status(401));
    assert_eq!(wrong.body, unknown.body, "a stranger does not learn which hooks there are");
    let one = knock("ci", &right).status(202).json();
    assert_eq!(knock("ci", &right).status(200).json(), one, "the same body twice is one run");
    let run = one["task_id"].as_str().unwrap();
    daemon.until(run, "finished", 1);
    let done = daemon.run(run);
    assert_eq!((done["status"].as_str(), done["task"].as_str()), (Some("COMPLETED"), Some("hola $(touch /tmp/never)")));
    assert!(!std::path::Path::new("/tmp/never").exists());
    daemon.stop();
}

#[test]
fn a_reload_opens_the_pages_anew_and_disturbs_no_run() {
    let world = World::bare();
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (one, two) = (free(), free());
    let configure = |listen: &str, more: &str| {
        let text = format!("sandbox: {{type: host}}\nweb:\n  listen: '{listen}'\n{more}");
        std::fs::write(world.home().join("devo.yaml"), text).unwrap();
    };
    world.write(
        "home/pipelines/hello.yaml",
        "name: hello\ninputs: {task: {type: string}}\nsteps: {a: {type: shell, run: 'echo {{ inputs.task }}'}}\n",
    );
    configure(&one, "");
    let daemon = Daemon::start_with(&world, &[("CI_HOOK", "a secret between two")]);
    let gate = world.path("gate");
    let wait = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    let run = daemon.submit(&json!({"pipeline": {"steps": {"a": {"type": "shell", "run": wait}}}}));
    daemon.until(&run, "step_started", 1);
    // A hook at the same address.
    configure(&one, "  hooks: {ci: {secret: CI_HOOK, pipeline: hello}}\n");
    daemon.reload("opened anew");
    let body = r#"{"task": "hola"}"#;
    let signature = signature("a secret between two", body);
    until(|| (TcpStream::connect(&one).is_ok()).then_some(()));
    let knock = || send(&one, "POST", "/hooks/ci", &[("x-hub-signature-256", &signature)], body);
    assert_eq!(knock().status, 202);
    // Settings that cannot be used change nothing.
    configure(&one, "  hooks: {ci: {secret: NO_SUCH_SECRET, pipeline: hello}}\n");
    daemon.reload("it is as before");
    assert_eq!(knock().status, 200, "the same body is the same run");
    // Another address: the first one is closed.
    configure(&two, "");
    daemon.reload(&format!("http://{two}"));
    until(|| TcpStream::connect(&two).is_ok().then_some(()));
    assert!(TcpStream::connect(&one).is_err());
    std::fs::write(&gate, "").unwrap();
    let bearer = format!("Bearer {}", daemon.token);
    let status = || send(&two, "GET", &format!("/api/v1/runs/{run}"), &[("authorization", &bearer)], "").json();
    until(|| (status()["status"] == "COMPLETED").then_some(()));
    assert_eq!(status()["steps"][0]["attempt"], 1);
    daemon.stop();
}

#[test]
fn addresses_that_others_reach_need_users_and_links_sign_in() {
    let world = World::bare();
    let configure = |text: &str| std::fs::write(world.home().join("devo.yaml"), text).unwrap();
    configure("web: {listen: '0.0.0.0:0'}\n");
    let refused = world.devo(&["serve"]).code(2);
    assert!(refused.stderr.contains("can be reached by others") && refused.stderr.contains("devo user hash"));
    let made = world.devo(&["user", "hash", "--token", "--json"]).code(0).json();
    let (token, hash) = (made["token"].as_str().unwrap(), made["hash"].as_str().unwrap());
    configure(&format!("web: {{listen: '0.0.0.0:0'}}\nusers: {{ann: {{roles: [viewer], token: '{hash}'}}}}\n"));
    let daemon = Daemon::start(&world);
    let port = daemon.address.rsplit(':').next().unwrap();
    let local = format!("127.0.0.1:{port}");
    let bearer = format!("Bearer {token}");
    assert_eq!(send(&local, "GET", "/api/v1/runs", &[("authorization", &bearer)], "").status, 200);
    let post = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    assert_eq!(send(&local, "POST", "/api/v1/runs", &post, "{}").status, 403);
    daemon.stop();

    configure(&format!("{FREE_PORT}\n"));
    let daemon = Daemon::start(&world);
    let link = world.devo(&["login-link"]).code(0).stdout.trim().to_owned();
    let (base, secret) = link.split_once("/login?link=").unwrap();
    assert_eq!(base, format!("http://{}", daemon.address));
    let kind = "application/x-www-form-urlencoded";
    let headers = [("origin", base), ("content-type", kind)];
    let signed = send(&daemon.address, "POST", "/login", &headers, &format!("link={secret}"));
    let cookie = signed.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    assert_eq!(signed.status, 303);
    daemon.stop();
    // A session outlives the daemon; a used link stays used.
    world.configure(FREE_PORT);
    let daemon = Daemon::start(&world);
    assert_eq!(send(&daemon.address, "GET", "/", &[("cookie", &cookie)], "").status, 200);
    let base = format!("http://{}", daemon.address);
    let headers = [("origin", base.as_str()), ("content-type", kind)];
    assert_eq!(send(&daemon.address, "POST", "/login", &headers, &format!("link={secret}")).status, 401);
    world.devo(&["login-link", "--user", "nobody"]).code(2);
    daemon.stop();
}

/// What comes back for raw bytes, in a connection of their own.
fn raw(address: &str, bytes: &[u8]) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    // It may have answered, and closed, before it has all of it.
    let _ = stream.write_all(bytes);
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn hostile_connections_take_nothing_from_others() {
    use std::io::{Read as _, Write as _};
    let world = World::bare();
    std::fs::write(world.home().join("devo.yaml"), format!("{FREE_PORT}\n")).unwrap();
    let daemon = Daemon::start(&world);
    let address = daemon.address.as_str();
    // Bodies: too large, by its own word or in pieces without one; heads: too long, too many; what is no HTTP at all.
    let head = |more: &str| {
        format!(
            "POST /api/v1/runs HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
             connection: close\r\n{more}\r\n",
            daemon.token
        )
    };
    let large = "x".repeat(2 * 1024 * 1024);
    let said = raw(address, (head(&format!("content-length: {}\r\n", large.len())) + &large).as_bytes());
    assert!(said.starts_with("HTTP/1.1 413 "), "{said}");
    let piece = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    let said = raw(address, (head("transfer-encoding: chunked\r\n") + &piece).as_bytes());
    assert!(said.starts_with("HTTP/1.1 413 "), "{said}");
    let said = raw(address, head(&"x-more: y\r\n".repeat(500)).as_bytes());
    assert!(said.starts_with("HTTP/1.1 431 "), "{said}");
    let said = raw(address, b"\x16\x03\x01 this is not HTTP\r\n\r\n");
    assert!(said.starts_with("HTTP/1.1 400 "), "{said}");
    let twice = head("content-length: 2\r\ncontent-length: 3\r\n") + "{}";
    assert!(raw(address, twice.as_bytes()).starts_with("HTTP/1.1 400 "), "two lengths");

    // Slowloris: half a request on more connections than there are; each has so long for the rest.
    let began = std::time::Instant::now();
    let mut held: Vec<std::net::TcpStream> = Vec::new();
    for _ in 0..700 {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n");
        stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
        held.push(stream);
    }
    let mut refused = 0;
    let mut cut = 0;
    for stream in &mut held {
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        if text.starts_with("HTTP/1.1 503 ") {
            refused += 1;
        } else {
            assert!(!text.contains("200 OK"), "{text}");
            cut += 1;
        }
    }
    assert!(cut <= 512 && refused + cut == 700, "{cut} were let in");
    assert!(began.elapsed() < std::time::Duration::from_secs(50), "they were cut off after {:?}", began.elapsed());
    // The others go on, and so does whoever stays silent less long.
    assert_eq!(send(address, "GET", "/healthz", &[], "").status, 200);
    let said = daemon.stop();
    assert!(!said.contains("panicked"), "{said}");
}
