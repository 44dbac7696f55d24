//! One truth in every channel: what begins in any of them is judged in any other, and each says the same of it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::daemon::until;
use crate::fake::claude;
use crate::http::{Reply, send, signature};
use crate::main_job::plan;
use crate::telegram_fake::{Shown, Telegram};
use crate::web::Daemon;
use crate::world::World;

const ANA: i64 = 5_000_000_001;
const HOOK_SECRET: &str = "a secret between two";

/// Plan and approval are those of the main job; what follows costs nothing, and fails as long as a fragile task's flag is not
/// there.
fn pipeline(flag: &str) -> String {
    format!(
        "name: dev-task\n\
         inputs: {{repo: {{type: string, required: true}}, task: {{type: string, required: true}}}}\n\
         steps:\n\
         \x20 plan: {{type: plan}}\n\
         \x20 approve: {{type: approve, needs: plan, revise: plan}}\n\
         \x20 act: {{type: shell, needs: approve, run: 'case {{{{ inputs.task }}}} in fragile*) test -e {flag};; esac'}}\n"
    )
}

/// Where a task may come from.
const BEGINS: [&str; 7] = ["run", "submit", "inbox", "api", "web", "webhook", "telegram"];
/// Where a person may say a word to a run, as approvals record it.
const JUDGES: [&str; 4] = ["cli", "api", "web", "telegram"];

/// A plan that waits for a word.
#[derive(Default)]
struct Asked {
    hash: String,
    revision: usize,
}

struct Place {
    world: World,
    telegram: Telegram,
    daemon: Daemon,
    /// A signed-in browser: its cookie, and the word that its forms carry.
    browser: (String, String),
}

impl Place {
    fn open() -> Self {
        let (world, telegram) = (World::shop(), Telegram::start());
        world.configure(&format!(
            "sandbox: {{type: host}}\n\
             limits: {{runs: 4, per_repo: 4}}\n\
             web: {{listen: '127.0.0.1:0', hooks: {{ci: {{secret: CI_HOOK, pipeline: dev-task, repo: shop}}}}}}\n\
             chat: {{telegram: {{allow: [{ANA}], approvers: [{ANA}]}}}}"
        ));
        world.write("home/pipelines/dev-task.yaml", &pipeline(world.path("flag").to_str().unwrap()));
        let daemon = Daemon::start_with(
            &world,
            &[("CI_HOOK", HOOK_SECRET), ("TELEGRAM_BOT_TOKEN", &telegram.token), ("TELEGRAM_API_URL", &telegram.url)],
        );
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let origin = format!("http://{}", daemon.address);
        let headers = [form.as_slice(), &[("origin", origin.as_str())]].concat();
        let reply = send(&daemon.address, "POST", "/login", &headers, &format!("token={}", daemon.token)).status(303);
        let cookie = reply.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        let page = send(&daemon.address, "GET", "/new", &[("cookie", &cookie)], "").status(200).body;
        let csrf = page.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        Self { world, telegram, daemon, browser: (cookie, csrf) }
    }

    fn form(&self, path: &str, fields: &[(&str, &str)]) -> Reply {
        let (cookie, csrf) = &self.browser;
        let origin = format!("http://{}", self.daemon.address);
        let headers = [
            ("cookie", cookie.as_str()),
            ("origin", origin.as_str()),
            ("content-type", "application/x-www-form-urlencoded"),
        ];
        let mut body = format!("csrf={csrf}");
        for (name, value) in fields {
            body.push_str(&format!("&{name}={}", value.replace(' ', "+").replace(':', "%3A")));
        }
        send(&self.daemon.address, "POST", path, &headers, &body)
    }

    /// Hands a task in; its run's id.
    fn begin(&self, channel: &str, task: &str) -> String {
        self.world.fake.planner(claude(&[("submit_plan", plan(task))]));
        let named = ["--pipeline", "dev-task", "--repo", "shop", "--task", task];
        let document = format!("pipeline: dev-task\nrepo: shop\ntask: {task}\n");
        match channel {
            "run" => {
                self.world.devo(&[&["run"], named.as_slice(), &["--no-watch"]].concat());
            }
            "submit" => {
                let file = self.world.write("task.yaml", &document);
                self.world.devo(&["submit", file.to_str().unwrap()]).code(0);
            }
            "inbox" => {
                self.world.write(&format!("home/inbox/{}.yaml", task.replace(' ', "-")), &document);
            }
            "api" => {
                self.daemon.submit(&json!({"pipeline": "dev-task", "repo": "shop", "task": task}));
            }
            "web" => {
                self.form("/new", &[("pipeline", "dev-task"), ("repo", "shop"), ("task", task)]).status(303);
            }
            "webhook" => {
                let body = json!({ "task": task }).to_string();
                let signature = signature(HOOK_SECRET, &body);
                send(&self.daemon.address, "POST", "/hooks/ci", &[("x-hub-signature-256", &signature)], &body)
                    .status(202);
            }
            _ => {
                self.telegram.say(ANA, ANA, &format!("/task {task}"));
            }
        }
        until(|| {
            std::thread::sleep(Duration::from_millis(50));
            let runs = self.daemon.get("/api/v1/runs?limit=200").status(200).json()["runs"].as_array().cloned()?;
            let run = runs.into_iter().find(|run| run["task"] == task)?;
            Some(run["task_id"].as_str().unwrap().to_owned())
        })
    }

    /// The run's document, once it has ended.
    fn ended(&self, run: &str) -> Value {
        self.daemon.until(run, "finished", 1);
        self.daemon.run(run)
    }

    /// The hash of a plan, once its revision waits for a person.
    fn planned(&self, run: &str, revision: usize) -> Asked {
        self.daemon.until(run, "step_asked", revision);
        let document = self.daemon.run(run);
        assert_eq!((&document["status"], &document["plan"]["revision"]), (&json!("PLANNED"), &json!(revision)));
        Asked { hash: document["plan"]["hash"].as_str().unwrap().to_owned(), revision }
    }

    /// The newest message about a run that has such a button; asked for, if the chat has none.
    fn message(&self, run: &str, command: &str, button: &str) -> Shown {
        let short = run.rsplit('-').next().unwrap();
        let short = &short[short.len() - 8..];
        self.telegram.say(ANA, ANA, &format!("{command} {short}"));
        self.telegram.wait(ANA, |shown| {
            shown.text.contains(short) && shown.buttons.iter().any(|(name, _)| name.starts_with(button))
        })
    }

    /// Says a word to a run, about this plan, and whether it was taken.
    fn say(&self, channel: &str, run: &str, word: &str, about: &Asked) -> bool {
        let Asked { hash, revision } = about;
        let text = "también en devoluciones";
        match channel {
            "cli" => {
                let args: &[&str] = match word {
                    "approve" => &["approve", run, "--hash", hash],
                    "revise" => &["revise", run, text],
                    other => &[other, run],
                };
                let ran = self.world.devo(args);
                // A command that follows the run ends with the run's own code.
                !ran.stderr.contains("error:")
            }
            "api" => {
                let mut body = json!({ "signal": word });
                match word {
                    "approve" => body["plan_hash"] = json!(hash),
                    "revise" => body["text"] = json!(text),
                    _ => {}
                }
                let reply = self.daemon.post(&format!("/api/v1/runs/{run}/signals"), &body);
                assert!([200, 409].contains(&reply.status), "{}", reply.body);
                reply.status == 200
            }
            "web" => {
                let fields =
                    [("signal", word), ("plan_hash", hash), ("text", if word == "revise" { text } else { "" })];
                let reply = self.form(&format!("/runs/{run}/signals"), &fields);
                assert!([303, 409].contains(&reply.status), "{}", reply.body);
                reply.status == 303
            }
            _ => {
                let approve = format!("Approve revision {revision}");
                match word {
                    "approve" => self.telegram.press(ANA, &self.message(run, "/plan", &approve), &approve),
                    "reject" => self.telegram.press(ANA, &self.message(run, "/plan", &approve), "Reject"),
                    "retry" => self.telegram.press(ANA, &self.message(run, "/status", "Retry"), "Retry"),
                    "revise" => {
                        self.telegram.reply(ANA, &self.message(run, "/plan", &approve), text);
                    }
                    _ => {
                        self.telegram.say(ANA, ANA, &format!("/abort {run}"));
                    }
                }
                true
            }
        }
    }

    /// The same document from the command line and from the API.
    fn agree(&self, run: &str) -> Value {
        let document = self.daemon.run(run);
        assert_eq!(self.world.status(run), document);
        document
    }
}

#[test]
fn what_begins_in_any_channel_is_revised_and_approved_in_any_other() {
    let place = Place::open();
    for (at, begins) in BEGINS.iter().enumerate() {
        let runs: Vec<String> =
            JUDGES.iter().map(|judge| place.begin(begins, &format!("from {begins} to {judge}"))).collect();
        for (judge, run) in JUDGES.iter().zip(&runs) {
            let first = place.planned(run, 1);
            place.world.fake.planner(claude(&[("submit_plan", plan(&format!("again, {begins} to {judge}")))]));
            assert!(place.say(judge, run, "revise", &first), "{begins} → {judge}: the revision was refused");
            let second = place.planned(run, 2);
            assert_ne!(first.hash, second.hash);
            // The plan that is no longer asked about is refused wherever it is approved.
            let stale = JUDGES[at % 3];
            assert!(!place.say(stale, run, "approve", &first), "{stale} took the old plan");
            assert!(place.say(judge, run, "approve", &second), "{begins} → {judge}: the approval was refused");
            assert_eq!(place.ended(run)["status"], "COMPLETED");
            let document = place.agree(run);
            assert_eq!(document["approval"]["channel"], **judge, "{begins} → {judge}");
            assert_eq!(document["approval"]["plan_hash"], second.hash.as_str());
            // Too late, and twice.
            assert!(!place.say(JUDGES[(at + 1) % 3], run, "approve", &second));
            assert!(!place.say(JUDGES[(at + 2) % 3], run, "abort", &second));
            assert_eq!(place.agree(run), document, "a word that is refused changes nothing");
        }
    }
    place.daemon.stop();
}

#[test]
fn every_word_can_be_said_in_every_channel() {
    let place = Place::open();
    for (at, judge) in JUDGES.iter().enumerate() {
        let other = JUDGES[(at + 1) % JUDGES.len()];
        let begins = BEGINS[at];
        let rejected = place.begin(begins, &format!("rejected by {judge}"));
        let aborted = place.begin(begins, &format!("aborted by {judge}"));
        let fragile = place.begin(begins, &format!("fragile by {judge}"));
        let hash = place.planned(&rejected, 1);
        assert!(place.say(judge, &rejected, "reject", &hash));
        let document = place.ended(&rejected);
        assert_eq!((&document["status"], &document["approval"]), (&json!("ABORTED"), &Value::Null));
        place.planned(&aborted, 1);
        assert!(place.say(judge, &aborted, "abort", &Asked::default()));
        assert_eq!(place.ended(&aborted)["status"], "ABORTED");
        // Approved elsewhere, failed, retried here.
        let hash = place.planned(&fragile, 1);
        assert!(place.say(other, &fragile, "approve", &hash));
        assert_eq!(place.ended(&fragile)["status"], "FAILED");
        std::fs::write(place.world.path("flag"), "").unwrap();
        assert!(place.say(judge, &fragile, "retry", &Asked::default()), "{judge}: the retry was refused");
        until(|| {
            std::thread::sleep(Duration::from_millis(50));
            (place.daemon.run(&fragile)["status"] == "COMPLETED").then_some(())
        });
        std::fs::remove_file(place.world.path("flag")).unwrap();
        for run in [&rejected, &aborted, &fragile] {
            place.agree(run);
        }
    }
    place.daemon.stop();
}
