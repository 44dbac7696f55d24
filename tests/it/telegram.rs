//! The Telegram bot, end to end: `devo serve`, a strict fake of the Bot API, fake models, real git.

use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::fake::{claude, gemini};
use crate::main_job::{executor, plan, script};
use crate::telegram_fake::{Shown, Telegram, Wrong, refusal};
use crate::world::World;

/// May approve, may only ask, is nobody; a group.
pub const ANA: i64 = 5_000_000_001;
pub const BEN: i64 = 6;
const EVE: i64 = 7_770_777;
pub const GROUP: i64 = -1_001_234;

pub struct Bot {
    pub world: World,
    pub telegram: Telegram,
    pub daemon: Option<Child>,
}

impl Drop for Bot {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Bot {
    fn new(more: &str) -> Self {
        let bot = Self::asleep(more);
        bot.awake()
    }

    /// Everything but the daemon.
    pub fn asleep(more: &str) -> Self {
        let bot = Self { world: World::shop(), telegram: Telegram::start(), daemon: None };
        bot.configure(more, "");
        bot
    }

    /// Writes devo.yaml: `more` of the bot, and `notify`.
    pub fn configure(&self, more: &str, notify: &str) {
        self.world.configure(&format!(
            "web: {{listen: \"127.0.0.1:0\"}}\nnotify: {{{notify}}}\n\
             chat: {{telegram: {{allow: [{ANA}, {BEN}], approvers: [{ANA}], chats: [{GROUP}]{more}}}}}"
        ));
    }

    pub fn awake(mut self) -> Self {
        self.start();
        self
    }

    pub fn start(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.world.path("serve.log")).unwrap();
        let child = self
            .world
            .command(&["serve"])
            .env("TELEGRAM_BOT_TOKEN", &self.telegram.token)
            .env("TELEGRAM_API_URL", &self.telegram.url)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemon = Some(child);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.world.path("serve.log")).unwrap_or_default()
    }

    /// The plan with this revision, once its buttons are there.
    #[track_caller]
    pub fn plan(&self, chat: i64, revision: u32) -> Shown {
        let text = format!("revision {revision}");
        self.telegram
            .wait(chat, |shown| shown.text.starts_with("📋") && shown.text.contains(&text) && !shown.buttons.is_empty())
    }

    pub fn table(&self) -> Vec<Value> {
        let all = self.world.devo(&["status", "--json"]).code(0).json();
        all["runs"].as_array().or(all.as_array()).unwrap().clone()
    }

    /// The only run's document.
    pub fn only_run(&self) -> Value {
        let runs = self.table();
        assert_eq!(runs.len(), 1, "{runs:#?}");
        self.world.status(runs[0]["task_id"].as_str().unwrap())
    }

    /// No text was refused by Telegram, and nobody saw the token.
    #[track_caller]
    pub fn is_clean(&self) {
        for (method, code, body) in self.telegram.calls() {
            assert!(code != 400, "{method} was refused: {body}");
        }
        let journal = std::fs::read(self.world.home().join("state.db")).unwrap();
        let secret = "AA-secret_token";
        assert!(!self.log().contains(secret), "{}", self.log());
        assert!(!journal.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }
}

/// The messages of a chat that rang, by their numbers.
fn rings(shown: &[Shown]) -> Vec<i64> {
    shown.iter().filter(|shown| !shown.silent).map(|shown| shown.id).collect()
}

#[test]
fn a_task_is_planned_revised_approved_and_done_from_a_phone() {
    let bot = Bot::new("");
    let telegram = &bot.telegram;
    bot.world.fake.planner(claude(&[("submit_plan", plan("Primer <plan>"))]));
    telegram.say(ANA, ANA, "/task Validar stock negativo en ventas");
    let first = bot.plan(ANA, 1);
    assert!(first.text.contains("Primer <plan>") && first.raw.contains("<blockquote expandable>"), "{first:?}");
    assert!(first.buttons.iter().all(|(_, data)| data.len() == 22), "a token and nothing else");
    let names: Vec<&str> = first.buttons.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["Approve revision 1", "Revise", "Reject"]);

    // Text alone decides nothing.
    telegram.say(ANA, ANA, "approve");
    telegram.wait_text(ANA, "Text alone does nothing");
    assert_eq!(bot.only_run()["status"], "PLANNED");

    // A reply is a revision, whatever it says.
    bot.world.fake.planner(claude(&[("submit_plan", plan("Segundo plan"))]));
    telegram.reply(ANA, &first, "sí, apruebo, pero también en devoluciones");
    telegram.wait_text(ANA, "Revising: sí, apruebo, pero también en devoluciones");
    let second = bot.plan(ANA, 2);
    let settled = telegram.wait_for(&first, |shown| shown.buttons.is_empty());
    assert!(settled.text.contains("Being revised") || settled.text.contains("Superseded by revision 2"), "{settled:?}");
    assert!(bot.world.fake.asked().last().unwrap().body.to_string().contains("también en devoluciones"));

    // One tap approves.
    executor(&bot.world.fake);
    telegram.press(ANA, &second, "Approve");
    let done = telegram.wait(ANA, |shown| shown.text.starts_with("✅ Segundo plan") && shown.text.contains("🌿"));
    let run = bot.only_run();
    assert_eq!(run["status"], "COMPLETED", "{run:#}");
    assert_eq!(run["approval"]["channel"], "telegram");
    assert_eq!(run["approval"]["plan_hash"], run["plan"]["hash"]);
    assert!(run["approval"]["by"].as_str().unwrap().contains(&ANA.to_string()));
    let branch = run["branch"].as_str().unwrap();
    assert!(bot.world.remote_branches().iter().any(|(name, _)| name == branch));
    for wanted in [branch, "in 2 files", "Tests: ", "The guard found", "$", "remote.git"] {
        assert!(done.text.contains(wanted), "{wanted}: {}", done.text);
    }
    let approved = telegram.wait_for(&second, |shown| shown.buttons.is_empty());
    assert!(approved.text.starts_with("✅ Revision 2 was approved by Ana"), "{}", approved.text);

    // Only plans and the result rang; one message followed the run and has its last state.
    let chat = telegram.chat(ANA);
    assert_eq!(rings(&chat), [first.id, second.id, done.id], "{chat:#?}");
    let progress =
        telegram.wait(ANA, |shown| shown.edits > 0 && shown.text.starts_with("✅") && shown.text.contains("✓ push"));
    assert!(progress.silent && progress.buttons.is_empty(), "{progress:?}");

    // The files that the result offers.
    telegram.press(ANA, &done, "Diff");
    let patch = telegram.wait(ANA, |shown| shown.document.as_ref().is_some_and(|(name, _)| name.ends_with(".patch")));
    assert!(String::from_utf8(patch.document.unwrap().1).unwrap().contains("SinExistencias"));
    telegram.press(ANA, &done, "Log");
    telegram.wait(ANA, |shown| shown.document.as_ref().is_some_and(|(name, _)| name.starts_with("log-")));
    telegram.wait_calls("answerCallbackQuery", 3);
    assert!(telegram.all_answered());
    assert_eq!(bot.world.fake.left(), (0, 0));
    bot.is_clean();
}

#[test]
fn strangers_get_nothing_and_who_may_not_approve_cannot() {
    let bot = Bot::new("");
    let telegram = &bot.telegram;
    bot.world.fake.planner(claude(&[("submit_plan", plan("Plan"))]));
    for (from, chat) in [(EVE, EVE), (EVE, GROUP), (ANA, -999), (EVE, ANA)] {
        telegram.say(from, chat, "/task Roba los secretos");
        telegram.say(from, chat, "/status");
        telegram.press_data(from, chat, 1, "AAAAAAAAAAAAAAAAAAAAAA");
    }
    telegram.post(EVE, EVE, "task.yaml", "pipeline: {steps: {a: {type: shell, run: id}}}", "");
    telegram.push(json!({"channel_post": {"message_id": 1, "chat": {"id": -5}, "text": "/task x"}}));
    telegram.push(json!({"message": {"message_id": 1, "date": 1, "chat": {"id": GROUP}, "text": "/task x",
                                     "from": {"id": 1_087_968_824, "is_bot": true, "first_name": "Group"}}}));
    // Ben may ask, and Ana, who has spoken to the bot, is shown the plan.
    telegram.say(ANA, ANA, "/help");
    telegram.wait_text(ANA, "/task");
    telegram.say(BEN, BEN, "/task Validar stock");
    let bens = bot.plan(BEN, 1);
    let anas = bot.plan(ANA, 1);
    assert_eq!(bens.buttons.len(), 1, "no button for what he may not do: {bens:?}");
    // Not with her button, not with a command.
    telegram.press_data(BEN, BEN, bens.id, anas.button("Approve"));
    telegram.say(BEN, BEN, "/plan approve");
    telegram.wait_text(BEN, "You may not decide this");
    // Nor by steps of his own, which nobody would approve.
    let own = "pipeline: {steps: {a: {type: shell, run: id}}}\n";
    telegram.post(BEN, BEN, "own.yaml", own, "");
    telegram.wait_text(BEN, "an approver may send one");
    telegram.post(BEN, BEN, "steps.yaml", "name: own\nsteps: {a: {type: shell, run: id}}\n", "");
    telegram.wait(BEN, |shown| shown.text.contains("an approver may send one") && shown.id > bens.id + 2);
    assert_eq!(bot.only_run()["status"], "PLANNED");
    for chat in [EVE, -999, GROUP] {
        assert!(telegram.chat(chat).is_empty(), "{:?}", telegram.chat(chat));
    }
    assert_eq!(telegram.toasts(), ["That button belongs to another chat."], "no press of a stranger was answered");
    let log = bot.log();
    assert!(!log.contains(&EVE.to_string()) && !log.contains("secretos"), "{log}");
    telegram.press(ANA, &anas, "Reject");
    telegram.wait_for(&bens, |shown| shown.buttons.is_empty());
    telegram.wait(BEN, |shown| shown.text.starts_with("🛑"));
    assert_eq!(bot.only_run()["status"], "ABORTED");
    bot.is_clean();
}

#[test]
fn buttons_survive_restarts_and_stale_ones_tell_the_truth() {
    let mut bot = Bot::new("");
    bot.world.fake.planner(claude(&[("submit_plan", plan("Plan"))]));
    bot.telegram.say(ANA, ANA, "/task Validar stock");
    let first = bot.plan(ANA, 1);
    bot.kill();
    // Another channel approves while the bot is down; the press was queued.
    let run = bot.only_run()["task_id"].as_str().unwrap().to_owned();
    bot.world.devo(&["revise", &run, "más pruebas"]).code(0);
    bot.telegram.press(ANA, &first, "Approve");
    bot.world.fake.planner(claude(&[("submit_plan", plan("Otro plan"))]));
    bot.start();
    let second = bot.plan(ANA, 2);
    let settled = bot.telegram.wait_for(&first, |shown| shown.buttons.is_empty());
    assert!(settled.text.contains("revis") && !settled.text.contains("approved"), "{settled:?}");
    assert!(bot.only_run()["approval"].is_null(), "a button approves its own plan only");

    // A second kill between plan and approval; this time the button is good.
    bot.kill();
    executor(&bot.world.fake);
    bot.telegram.press(ANA, &second, "Approve");
    bot.start();
    bot.telegram.wait(ANA, |shown| shown.text.starts_with("✅") && shown.text.contains("🌿"));
    let status = bot.only_run();
    assert_eq!((status["status"].as_str(), status["approval"]["revision"].as_u64()), (Some("COMPLETED"), Some(2)));

    // Replayed, forged, and of another message.
    let before = bot.telegram.toasts().len();
    bot.telegram.press(ANA, &second, "Approve");
    bot.telegram.press(ANA, &first, "Reject");
    bot.telegram.press_data(ANA, ANA, second.id, "forged");
    bot.telegram.press_data(ANA, ANA, second.id, &"x".repeat(64));
    bot.telegram.wait_calls("answerCallbackQuery", before + 4);
    for toast in &bot.telegram.toasts()[before..] {
        assert!(toast.contains("approved by") || toast.contains("over") || toast.contains("expired"), "{toast}");
    }
    assert_eq!(bot.only_run()["status"], "COMPLETED");
    bot.is_clean();
}

#[test]
fn a_kill_between_sending_and_its_record_repeats_a_question_once_and_says_so() {
    let mut bot = Bot::asleep(", verbosity: quiet");
    bot.world.fake.planner(claude(&[("submit_plan", plan("Plan"))]));
    bot.start();
    bot.telegram.say(ANA, ANA, "/task Validar stock");
    bot.telegram.wait_text(ANA, "Accepted");
    bot.telegram.fail("sendMessage", Wrong::Swallowed);
    bot.telegram.wait(ANA, |shown| shown.text.starts_with("📋"));
    bot.kill();
    bot.start();
    let repeated = bot.telegram.wait(ANA, |shown| shown.text.contains("repeated"));
    assert!(!repeated.silent && repeated.text.contains("📋"), "{repeated:?}");
    // Whoever is answered was waited for until the question was written down: this kill repeats nothing.
    bot.telegram.say(ANA, ANA, "/help");
    bot.telegram.wait_text(ANA, "/abort");
    bot.kill();
    bot.start();
    executor(&bot.world.fake);
    bot.telegram.press(ANA, &repeated, "Approve");
    bot.telegram.wait(ANA, |shown| shown.text.starts_with("✅") && shown.text.contains("🌿"));
    let plans = bot.telegram.chat(ANA).into_iter().filter(|shown| shown.text.contains("📋")).count();
    assert_eq!(plans, 2, "one repeat per kill: {:#?}", bot.telegram.chat(ANA));
    bot.is_clean();
}

#[test]
fn what_does_not_ring_says_as_well_that_it_is_repeated() {
    let mut bot = Bot::asleep(", verbosity: quiet");
    bot.start();
    bot.telegram.say(ANA, ANA, "/help");
    bot.telegram.wait_text(ANA, "/abort");
    bot.telegram.fail("sendMessage", Wrong::Swallowed);
    let text = format!("pipeline: {{steps: {{a: {{type: notify, to: ['telegram:{ANA}'], text: Para Ana}}}}}}\n");
    let task = bot.world.write("say.yaml", &text);
    bot.world.devo(&["run", task.to_str().unwrap(), "--no-watch"]).code(0);
    bot.telegram.wait(ANA, |shown| shown.text.contains("Para Ana"));
    bot.kill();
    bot.start();
    let repeated = bot.telegram.wait(ANA, |shown| shown.text.contains("Para Ana") && shown.text.contains("repeated"));
    assert!(repeated.silent, "{repeated:?}");
    let all = bot.telegram.chat(ANA).into_iter().filter(|shown| shown.text.contains("Para Ana")).count();
    assert_eq!(all, 2, "{:#?}", bot.telegram.chat(ANA));
    bot.is_clean();
}

#[test]
fn a_task_whose_update_comes_again_is_one_run() {
    let mut bot = Bot::asleep(", verbosity: quiet");
    let telegram = bot.telegram.clone();
    let task = "pipeline: {steps: {a: {type: shell, run: echo one}}}\n";
    for n in 0..4 {
        telegram.post(ANA, ANA, &format!("task{n}.yaml"), task, "");
        bot.start();
        // Killed as soon as the run is there: before, while or after its update is confirmed.
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while runs(&bot.world) <= n {
            assert!(std::time::Instant::now() < patience, "{}", bot.log());
            std::thread::yield_now();
        }
        bot.kill();
    }
    bot.start();
    telegram.wait_heard();
    for line in bot.table() {
        let id = line["short_id"].as_str().unwrap();
        telegram.wait(ANA, |shown| shown.text.starts_with("✅") && shown.text.contains(id));
    }
    assert_eq!(runs(&bot.world), 4, "each task is one run");
    bot.is_clean();
}

#[test]
fn a_command_that_comes_again_is_about_the_run_of_its_first_try() {
    let mut bot = Bot::new("");
    let telegram = bot.telegram.clone();
    let mut ids = Vec::new();
    for name in ["Uno", "Otro"] {
        bot.world.fake.planner(claude(&[("submit_plan", plan(name))]));
        telegram.say(ANA, ANA, &format!("/task {name}"));
        telegram.wait(ANA, |shown| shown.text.starts_with(&format!("📋 {name}")) && !shown.buttons.is_empty());
        let table = bot.table();
        let run = table.iter().find(|run| run["task"] == name).unwrap()["task_id"].as_str().unwrap().to_owned();
        ids.push(run);
    }
    let (first, other) = (&ids[0], &ids[1]);
    let hash = bot.world.status(first)["plan"]["hash"].as_str().unwrap().to_owned();
    telegram.wait_heard();
    bot.kill();
    // The kill fell between what `/plan approve` was about to do and its doing; then that run was aborted elsewhere.
    bot.world.devo(&["abort", first]);
    let next = telegram.push(json!({"channel_post": {"message_id": 1, "chat": {"id": -5}, "text": "x"}})) + 1;
    let begun = json!({"run": first, "seq": 3, "plan_hash": hash}).to_string();
    let journal = rusqlite::Connection::open(bot.world.home().join("state.db")).unwrap();
    let kept = "INSERT INTO kept SELECT scope, ?1, ?2 FROM kept WHERE scope LIKE 'telegram/%' LIMIT 1";
    assert_eq!(journal.execute(kept, (format!("begun/{next}"), begun)).unwrap(), 1);
    drop(journal);
    telegram.say(ANA, ANA, "/plan approve");
    bot.start();
    telegram.wait_text(ANA, "Not accepted");
    telegram.wait_heard();
    let status = bot.world.status(other);
    assert!(status["status"] == "PLANNED" && status["approval"].is_null(), "{status:#}");
    bot.is_clean();
}

fn runs(world: &World) -> usize {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let count = rusqlite::Connection::open_with_flags(world.home().join("state.db"), flags)
        .and_then(|db| db.query_row("SELECT count(*) FROM runs", [], |row| row.get::<_, i64>(0)));
    usize::try_from(count.unwrap_or(0)).unwrap()
}

#[test]
fn limits_and_outages_delay_and_lose_nothing() {
    let bot = Bot::new("");
    let telegram = &bot.telegram;
    let mut storm = refusal(429, "Too Many Requests: retry after 1");
    storm["parameters"] = json!({"retry_after": 1});
    for _ in 0..3 {
        telegram.fail("sendMessage", Wrong::Answer(429, storm.clone()));
    }
    telegram.fail("editMessageText", Wrong::Answer(429, storm));
    telegram.fail("sendMessage", Wrong::Answer(502, json!("no JSON of theirs")));
    telegram.fail("getUpdates", Wrong::Answer(409, refusal(409, "Conflict: terminated by other getUpdates request")));
    script(&bot.world.fake);
    telegram.say(ANA, ANA, "/task Validar stock negativo");
    let plan = bot.plan(ANA, 1);
    assert!(bot.log().contains("another program fetches this bot's updates"), "{}", bot.log());
    telegram.down(true);
    let run = bot.only_run();
    let (id, hash) = (run["task_id"].as_str().unwrap(), run["plan"]["hash"].as_str().unwrap());
    // The home goes on without Telegram.
    bot.world.devo(&["approve", id, "--hash", hash]).code(0);
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while bot.only_run()["status"] != "COMPLETED" {
        assert!(std::time::Instant::now() < patience);
    }
    telegram.down(false);
    telegram.wait(ANA, |shown| shown.text.contains("✅") && shown.text.contains("🌿"));
    let settled = telegram.wait_for(&plan, |shown| shown.buttons.is_empty());
    assert!(settled.text.contains("(cli)"), "{settled:?}");
    telegram.wait(ANA, |shown| shown.edits > 0 && shown.text.contains("✓ push"));
    bot.is_clean();
}

#[test]
fn hostile_texts_stay_text() {
    let bot = Bot::new("");
    let telegram = &bot.telegram;
    let mut long = plan("</b><script>x</script> &amp; {{ 7*7 }} \u{202e}");
    long["summary"] = json!("😀<i>&".repeat(900));
    long["steps"][0]["intent"] = json!("</blockquote>\u{1b}[31m\n".repeat(400));
    long["questions"] = json!(["<a href='x'>¿?</a>"]);
    bot.world.fake.planner(claude(&[("submit_plan", long)]));
    let task = "</b> <x> &lt; \u{202e}\u{0}{{ inputs.task }} `\"' \u{85}\u{2028} $(id) 😀\nsegunda: [línea";
    telegram.say(ANA, ANA, &format!("/task {task}"));
    let shown = bot.plan(ANA, 1);
    assert!(
        shown.text.contains("</b><script>x</script> &amp; {{ 7*7 }}") && !shown.text.contains('\u{202e}'),
        "{shown:?}"
    );
    assert!(shown.text.contains("The whole plan is in the file below"));
    let file = telegram.wait(ANA, |shown| shown.document.as_ref().is_some_and(|(name, _)| name.ends_with("-r1.md")));
    let content = String::from_utf8(file.document.unwrap().1).unwrap();
    assert!(content.contains(&"</blockquote>\n".repeat(3)) && !content.contains('\u{1b}'));
    assert!(bot.only_run()["task"].as_str().unwrap().contains("{{ inputs.task }} `\"'"), "it was not rendered");
    telegram.reply(ANA, &shown, &format!("<b>{}", "ñ😀".repeat(1300)));
    telegram.wait_text(ANA, "Revising: <b>");
    bot.is_clean();
}

#[test]
fn what_begins_in_one_channel_ends_in_another() {
    let mut bot = Bot::asleep("");
    bot.world.fake.planner(claude(&[("submit_plan", plan("De la línea de comandos"))]));
    let args = ["run", "--pipeline", "dev-task", "--repo", "shop", "--task", "Validar stock", "--no-watch", "--json"];
    bot.world.devo(&args).code(3);
    bot.start();
    let telegram = &bot.telegram;
    telegram.say(ANA, ANA, "/plan approve");
    telegram.wait_text(ANA, "approve it with its button");
    let plan = bot.plan(ANA, 1);
    executor(&bot.world.fake);
    telegram.say(ANA, ANA, "/plan approve");
    telegram.wait_text(ANA, "Approved");
    telegram.wait_for(&plan, |shown| shown.buttons.is_empty());
    telegram.wait(ANA, |shown| shown.text.starts_with("✅") && shown.text.contains("🌿"));
    let run = bot.only_run();
    assert_eq!((run["status"].as_str(), run["approval"]["channel"].as_str()), (Some("COMPLETED"), Some("telegram")));
    bot.is_clean();
}

#[test]
fn documents_are_tasks_or_pipelines_and_mistakes_have_their_place() {
    let bot = Bot::new("");
    let telegram = &bot.telegram;
    telegram.post(ANA, ANA, "bad.yaml", "pipeline:\n  steps:\n    a: {type: shel, run: 'true'}\n", "");
    let said = telegram.wait_text(ANA, "Not accepted");
    assert!(said.text.contains("bad.yaml:3:15") && said.text.contains("shell"), "{}", said.text);
    telegram.post(ANA, ANA, "notes.pdf", "%PDF", "");
    telegram.wait_text(ANA, ".yaml or .yml");
    telegram.say(ANA, ANA, "pipeline: {steps: {a: {type: shell, run: echo pasted}}}\ntask: Pegada");
    telegram.wait(ANA, |shown| shown.text.starts_with("✅ Pegada") && shown.text.contains("·") && !shown.silent);
    let pipeline = "name: hola\ninputs:\n  task: {type: string, required: true}\n  n: {type: integer}\nsteps:\n  a: {type: shell, run: 'echo {{ inputs.task }}'}\n";
    telegram.post(ANA, ANA, "hola.yaml", pipeline, "");
    let asked = telegram.wait(ANA, |shown| shown.asks);
    telegram.reply(ANA, &asked, "hola; $(rm -rf /)");
    telegram.wait(ANA, |shown| shown.text.starts_with("✅ hola; $(rm -rf /)") && !shown.silent);
    telegram.post(
        ANA,
        ANA,
        "more.yaml",
        &pipeline.replace("n: {type: integer}", "n: {type: integer, required: true}"),
        "hi",
    );
    telegram.wait_text(ANA, "also needs the inputs n (integer)");
    bot.is_clean();
}

#[test]
fn several_repositories_are_asked_for_and_questions_are_answered() {
    let bot = Bot::asleep("");
    let other = format!("  api:\n    url: {}\n", bot.world.path("remote.git").display());
    let file = bot.world.home().join("devo.yaml");
    let text = std::fs::read_to_string(&file).unwrap().replace("repos:\n", &format!("repos:\n{other}"));
    std::fs::write(&file, text).unwrap();
    let bot = bot.awake();
    let telegram = &bot.telegram;
    bot.world.fake.planner(claude(&[("submit_plan", plan("Plan"))]));
    telegram.say(ANA, ANA, "/lang es");
    telegram.wait_text(ANA, "Aquí hablo español");
    telegram.say(ANA, ANA, "/new");
    let which = telegram.wait_text(ANA, "¿Qué repositorio?");
    telegram.press(ANA, &which, "shop");
    let asked = telegram.wait(ANA, |shown| shown.asks);
    telegram.wait_for(&which, |shown| shown.buttons.is_empty());
    telegram.reply(ANA, &asked, "Validar stock");
    let shown = telegram.wait(ANA, |shown| shown.text.starts_with("📋") && !shown.buttons.is_empty());
    assert!(shown.text.contains("revisión 1"), "{shown:?}");
    assert_eq!(bot.only_run()["repo"], "shop");
    telegram.press(ANA, &shown, "Corregir");
    let asked = telegram.wait(ANA, |shown| shown.asks && shown.text.contains("Revisión 1"));
    bot.world.fake.planner(claude(&[("submit_plan", plan("Plan dos"))]));
    telegram.reply(ANA, &asked, "con más pruebas");
    telegram.wait_text(ANA, "Corrigiendo: con más pruebas");
    telegram.wait(ANA, |shown| shown.text.starts_with("📋 Plan dos"));
    telegram.say(ANA, ANA, "/abort");
    telegram.wait_text(ANA, "Abortando");
    telegram.wait(ANA, |shown| shown.text.starts_with("🛑") && shown.text.contains("detenido"));
    assert_eq!(bot.only_run()["status"], "ABORTED");
    // A reply to what is over says so.
    telegram.reply(ANA, &shown, "otra cosa");
    telegram.wait_text(ANA, "Ese plan ya no es el actual");
    bot.is_clean();
}

#[test]
fn groups_have_topics_other_bots_and_a_new_number_one_day() {
    let bot = Bot::new("");
    let telegram = &bot.telegram;
    bot.world.fake.planner(claude(&[("submit_plan", plan("Plan"))]));
    telegram.say(ANA, GROUP, "/task@other_bot no");
    telegram.say(ANA, GROUP, "hello everybody");
    telegram.say_in(ANA, GROUP, 77, "/task@devo_test_bot Validar stock");
    let shown = bot.plan(GROUP, 1);
    assert_eq!(shown.thread, Some(77), "it is asked where it was begun");
    assert!(telegram.chat(GROUP).iter().all(|shown| shown.thread == Some(77)), "{:#?}", telegram.chat(GROUP));
    // Ben is in the group and may not approve; the button stays for who may.
    telegram.press(BEN, &shown, "Approve");
    telegram.wait_calls("answerCallbackQuery", 1);
    assert!(telegram.toasts()[0].contains("may not decide"), "{:?}", telegram.toasts());
    assert_eq!(bot.only_run()["status"], "PLANNED");
    let new = -1_009_999;
    telegram.upgrade(GROUP, new);
    telegram.press(ANA, &shown, "Reject");
    telegram.wait(new, |shown| shown.text.starts_with("🛑"));
    telegram.say(ANA, new, "/help@devo_test_bot");
    telegram.wait_text(new, "/task");
}

#[test]
fn a_failure_offers_a_retry_and_what_runs_can_be_stopped() {
    let bot = Bot::new("");
    let telegram = &bot.telegram;
    // The planner has no script, so the run fails at its first step.
    telegram.say(ANA, ANA, "/task Validar stock");
    let failed = telegram.wait(ANA, |shown| shown.text.starts_with("❌") && !shown.buttons.is_empty() && !shown.silent);
    assert!(failed.text.contains("Step plan failed"), "{failed:?}");
    bot.world.fake.planner(claude(&[("submit_plan", plan("Plan"))]));
    telegram.press(ANA, &failed, "Retry");
    let shown = bot.plan(ANA, 1);
    telegram.wait_for(&failed, |shown| shown.buttons.is_empty());
    bot.world.fake.executor(gemini(&[("finish", json!({"status": "done", "summary": "x", "evidence": []}))]));
    telegram.press(ANA, &shown, "Approve");
    telegram.wait_for(&shown, |shown| shown.text.contains("approved by"));
    // It can be stopped from the message that follows it.
    let follows = telegram
        .wait(ANA, |shown| shown.text.contains("approve") && shown.buttons.iter().any(|(name, _)| name == "Abort"));
    telegram.press(ANA, &follows, "Abort");
    telegram.wait_text(ANA, "What was pushed stays");
    bot.is_clean();
}

#[test]
fn a_question_rings_and_only_a_reply_that_fits_answers_it() {
    let bot = Bot::new("");
    let telegram = &bot.telegram;
    bot.world.fake.planner(claude(&[("submit_plan", plan("Plan"))]));
    let task = "pipeline: {limits: {usd: 0.0001}, steps: {plan: {type: plan}, approve: {type: approve, needs: plan}}}\n\
                repo: shop\ntask: Validar stock\n";
    telegram.post(ANA, ANA, "task.yaml", task, "");
    let asked = telegram.wait(ANA, |shown| shown.text.starts_with("💰"));
    assert!(!asked.silent, "{asked:?}");
    telegram.reply(ANA, &asked, "as much as it takes");
    telegram.wait_text(ANA, "answer with what to add");
    telegram.reply(ANA, &asked, "$5");
    telegram.wait_text(ANA, "Answered: $5");
    let shown = bot.plan(ANA, 1);
    telegram.wait_for(&asked, |shown| shown.buttons.is_empty() && shown.text.contains("Answered"));
    telegram.reply(ANA, &asked, "$500");
    telegram.wait(ANA, |shown| shown.text == "✅ Answered");
    telegram.press(ANA, &shown, "Approve");
    telegram.wait(ANA, |shown| shown.text.starts_with("✅ Plan") && !shown.silent);
    bot.is_clean();
}

#[test]
fn a_token_that_is_refused_is_tried_again_and_the_daemon_lives() {
    let mut bot = Bot::asleep("");
    bot.telegram.fail("getMe", Wrong::Answer(401, refusal(401, "Unauthorized")));
    // From now on it is accepted: nobody starts the daemon again.
    bot.telegram.say(ANA, ANA, "/help");
    bot.start();
    bot.telegram.wait_text(ANA, "/task");
    assert!(bot.log().contains("the token is not accepted"), "{}", bot.log());
    assert!(bot.daemon.as_mut().unwrap().try_wait().unwrap().is_none(), "the daemon serves its other channels");
    bot.kill();
    let none = bot.world.command(&["serve"]).env("TELEGRAM_API_URL", &bot.telegram.url).output().unwrap();
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert_eq!(none.status.code(), Some(2), "{said}");
    assert!(said.contains("TELEGRAM_BOT_TOKEN is not set"), "{said}");
    bot.is_clean();
}
