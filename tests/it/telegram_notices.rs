//! When the bot rings and when it does not: reminders, quiet hours, muted runs, named chats; and how it is found and looked after.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::daemon::until;
use crate::fake::claude;
use crate::main_job::{executor, plan};
use crate::telegram::{ANA, BEN, Bot, GROUP};
use crate::telegram_fake::{Shown, Wrong, refusal};

/// Submits a task that plans, from the command line; `notify` names who is told.
fn submit(bot: &Bot, title: &str, notify: &str) -> String {
    bot.world.fake.planner(claude(&[("submit_plan", plan(title))]));
    let text = format!("pipeline: dev-task\nrepo: shop\ntask: {title}\nnotify: [{notify}]\n");
    let task = bot.world.write("task.yaml", &text);
    let run = bot.world.devo(&["run", task.to_str().unwrap(), "--no-watch"]).code(0).stdout.trim().to_owned();
    until(|| (bot.world.status(&run)["status"] == "PLANNED").then_some(()));
    run
}

fn awake(notify: &str) -> Bot {
    let bot = Bot::asleep("");
    bot.configure("", notify);
    let bot = bot.awake();
    bot.telegram.say(ANA, ANA, "/help");
    bot.telegram.wait_text(ANA, "/task");
    bot
}

fn quiet_now() -> String {
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    let clock = |hours: i64| (&now + jiff::Span::new().hours(hours)).strftime("%H:%M").to_string();
    format!("quiet_hours: {{from: '{}', to: '{}', zone: UTC}}", clock(-2), clock(2))
}

#[test]
fn an_unanswered_plan_is_told_again_once_also_over_a_kill_and_a_reply_to_that_revises_it() {
    let mut bot = awake("reminders: {after: 3s, every: 1d}");
    submit(&bot, "Primero", &format!("'telegram:{ANA}'"));
    let shown = bot.plan(ANA, 1);
    bot.kill();
    bot.start();
    let reminder = bot.telegram.wait(ANA, |shown| shown.text.starts_with("⏰"));
    assert!(!reminder.silent && reminder.text.contains("Still waiting since 20"), "{reminder:?}");
    assert!(reminder.text.contains("Primero") && reminder.buttons.is_empty() && reminder.id > shown.id, "{reminder:?}");
    bot.world.fake.planner(claude(&[("submit_plan", plan("Segundo"))]));
    bot.telegram.reply(ANA, &reminder, "más corto");
    bot.telegram.wait_text(ANA, "Revising: más corto");
    let second = bot.plan(ANA, 2);
    bot.telegram.press(ANA, &second, "Reject");
    bot.telegram.wait(ANA, |shown| shown.text.starts_with("🛑"));
    std::thread::sleep(Duration::from_secs(5));
    let reminders = bot.telegram.chat(ANA).iter().filter(|shown| shown.text.starts_with("⏰")).count();
    assert!(reminders <= 2, "one for each plan at most, none after the decision: {:#?}", bot.telegram.chat(ANA));
    bot.is_clean();
}

#[test]
fn quiet_hours_hold_what_rings_where_nobody_is_awake() {
    let mut bot = Bot::asleep("");
    bot.configure("", &quiet_now());
    bot.start();
    let told = format!("'telegram:{GROUP}'");
    let first = submit(&bot, "De noche", &told);
    let second = submit(&bot, "Para mañana", &told);
    bot.world.devo(&["reject", &first]).code(0);
    // Somebody speaks in this chat, so that it is awake.
    bot.world.fake.planner(claude(&[("submit_plan", plan("Despierta"))]));
    bot.telegram.say(ANA, ANA, "/task shop Despierta");
    let shown = bot.plan(ANA, 1);
    assert!(!shown.silent, "{shown:?}");
    std::thread::sleep(Duration::from_secs(2));
    let loud: Vec<_> =
        bot.telegram.chat(GROUP).into_iter().filter(|shown| !shown.silent || shown.text.starts_with("📋")).collect();
    assert!(loud.is_empty(), "{loud:#?}");
    // A kill does not wake anybody.
    bot.kill();
    bot.start();
    bot.telegram.say(ANA, ANA, "/help");
    bot.telegram.wait_heard();
    assert!(bot.telegram.chat(GROUP).iter().all(|shown| shown.silent));
    bot.kill();
    bot.configure("", "");
    bot.start();
    let shown = bot.plan(GROUP, 1);
    assert!(!shown.silent && shown.text.contains("Para mañana"), "{shown:?}");
    assert!(bot.world.status(&second)["waiting_for"].is_object());
    std::thread::sleep(Duration::from_secs(4));
    let late = bot.telegram.chat(GROUP);
    assert!(!late.iter().any(|shown| shown.text.contains("📋") && shown.text.contains("De noche")), "{late:#?}");
}

#[test]
fn a_muted_run_does_not_ring_and_is_not_told_again() {
    let bot = awake("reminders: {after: 6s}");
    let telegram = &bot.telegram;
    let run = submit(&bot, "Callada", &format!("'telegram:{ANA}'"));
    let shown = bot.plan(ANA, 1);
    assert!(!shown.silent);
    telegram.reply(ANA, &shown, "/mute");
    telegram.wait_text(ANA, "rings no more here");
    std::thread::sleep(Duration::from_secs(8));
    assert!(!telegram.chat(ANA).iter().any(|shown| shown.text.starts_with("⏰")), "{:#?}", telegram.chat(ANA));
    executor(&bot.world.fake);
    telegram.press(ANA, &shown, "Approve");
    let done = telegram.wait(ANA, |shown| shown.text.starts_with("✅") && shown.text.contains("🌿"));
    assert!(done.silent, "{done:?}");
    telegram.say(ANA, ANA, &format!("/unmute {run}"));
    telegram.wait_text(ANA, "rings here again");
    bot.is_clean();
}

#[test]
fn what_steps_do_is_told_to_who_wants_it_and_to_no_group() {
    let bot = awake("");
    let telegram = &bot.telegram;
    telegram.say(ANA, ANA, "/verbose tools");
    telegram.wait_text(ANA, "what its steps do");
    telegram.say(ANA, GROUP, "/verbose tools");
    telegram.wait_text(GROUP, "In a group I only follow the steps");
    let say = |text: &str| json!({"type": "notify", "text": text});
    let mut steps = json!({"first": {"type": "shell", "run": "sleep 4"}, "say": say("Hola <i>"), "slow": {"type": "shell", "run": "sleep 6"}});
    steps["say"]["needs"] = json!("first");
    steps["slow"]["needs"] = json!("say");
    let task = json!({"pipeline": {"steps": steps}, "task": "Lenta", "notify": [format!("telegram:{ANA}"), format!("telegram:{GROUP}")]});
    let task = bot.world.write("slow.yaml", &task.to_string());
    bot.world.devo(&["run", task.to_str().unwrap(), "--no-watch"]).code(0);
    let follows =
        |shown: &Shown| shown.text.contains("Lenta") && shown.text.contains("· slow") | shown.text.contains("● slow");
    telegram.wait(ANA, |shown| follows(shown) && shown.text.contains("say | for whoever is told of the run: Hola <i>"));
    telegram.wait(GROUP, |shown| shown.text.starts_with("✅") && shown.text.contains("Lenta"));
    assert!(telegram.seen(GROUP).iter().all(|text| !text.contains(" | ")), "{:#?}", telegram.seen(GROUP));
    bot.is_clean();
}

#[test]
fn a_task_that_names_a_chat_is_told_there_and_nowhere_else() {
    let bot = awake("");
    let telegram = &bot.telegram;
    bot.world.fake.planner(claude(&[("submit_plan", plan("Para el grupo"))]));
    let pipeline = json!({"steps": {
        "say": {"type": "notify", "text": "Empieza {{ run.task }} <b>"},
        "also": {"type": "notify", "needs": "say", "to": [format!("telegram:{ANA}")], "text": "para Ana"},
        "plan": {"type": "plan", "needs": "also"},
        "approve": {"type": "approve", "needs": "plan"},
    }});
    let task = json!({"pipeline": pipeline, "repo": "shop", "task": "A & B", "notify": [format!("telegram:{GROUP}")]});
    let task = bot.world.write("named.yaml", &task.to_string());
    bot.world.devo(&["run", task.to_str().unwrap(), "--no-watch"]).code(0);
    let shown = bot.plan(GROUP, 1);
    assert!(!shown.silent);
    let said = telegram.wait_text(GROUP, "Empieza A & B <b>");
    assert!(said.silent && said.text.starts_with("💬"), "a step's word does not ring: {said:?}");
    let also = telegram.wait_text(ANA, "para Ana");
    assert!(also.silent);
    // Ana may approve and has spoken to the bot, and still is not asked.
    assert!(!telegram.chat(ANA).iter().any(|shown| shown.text.starts_with("📋")), "{:#?}", telegram.chat(ANA));
    let refused = bot
        .world
        .write("refused.yaml", "pipeline: {steps: {a: {type: shell, run: 'true'}}}\nnotify: ['telegram:99']\n");
    let refused = bot.world.devo(&["run", refused.to_str().unwrap()]).code(2);
    assert!(refused.stderr.contains("chat.telegram does not allow it"), "{}", refused.stderr);
    bot.is_clean();
}

#[test]
fn each_task_gets_a_topic_where_the_chat_has_them_and_no_more_than_one() {
    let mut bot = Bot::asleep(", topics: per_task");
    bot.telegram.forum(GROUP);
    bot.start();
    let telegram = &bot.telegram;
    submit(&bot, "Con tema", &format!("'telegram:{GROUP}', 'telegram:{ANA}'"));
    let shown = bot.plan(GROUP, 1);
    let topics = telegram.topics(GROUP);
    assert_eq!(topics.len(), 1, "{topics:?}");
    assert!(shown.thread == Some(topics[0].0), "{shown:?} {topics:?}");
    // A chat without topics is told all the same.
    assert_eq!(bot.plan(ANA, 1).thread, None);
    // Text in a run's own topic is a revision; a yes is no approval; elsewhere it is nothing.
    bot.world.fake.planner(claude(&[("submit_plan", plan("Con tema, más corto"))]));
    telegram.say(ANA, GROUP, "más corto");
    telegram.say_in(ANA, GROUP, topics[0].0, "sí, pero más corto");
    telegram.wait_text(GROUP, "Revising: sí, pero más corto");
    let shown = bot.plan(GROUP, 2);
    assert!(!telegram.chat(GROUP).iter().any(|shown| shown.text.contains("Revising: más corto")));
    bot.kill();
    bot.start();
    bot.telegram.press(ANA, &shown, "Reject");
    let end = bot
        .telegram
        .wait(GROUP, |shown| shown.text.starts_with("🛑") && shown.buttons.iter().any(|(name, _)| name == "Log"));
    assert_eq!(end.thread, Some(topics[0].0), "{end:?}");
    assert_eq!(bot.telegram.topics(GROUP).len(), 1, "a restart makes no other");
    let elsewhere: Vec<_> =
        bot.telegram.chat(GROUP).into_iter().filter(|shown| shown.thread != Some(topics[0].0)).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:#?}");
}

#[test]
fn a_link_signs_in_once_whom_devo_yaml_names_and_is_kept_nowhere() {
    let mut bot = Bot::asleep(&format!(", users: {{{ANA}: owner}}"));
    bot.start();
    bot.telegram.say(ANA, ANA, "/login");
    bot.telegram.wait_text(ANA, "no address that you could open");
    bot.kill();
    // A port that is free now: the pages have to be found under the address of devo.yaml.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = std::fs::read_to_string(bot.world.home().join("devo.yaml")).unwrap();
    let text = text.replace(
        "web: {listen: \"127.0.0.1:0\"}",
        &format!("web: {{listen: '127.0.0.1:{port}', url: 'http://127.0.0.1:{port}'}}"),
    );
    std::fs::write(bot.world.home().join("devo.yaml"), text).unwrap();
    bot.start();
    let telegram = &bot.telegram;
    telegram.say(BEN, BEN, "/login");
    telegram.wait_text(BEN, "gives your id 6 no user");
    telegram.say(ANA, GROUP, "/login");
    telegram.wait_text(GROUP, "Only where we are alone");
    telegram.say(ANA, ANA, "/login");
    let shown = telegram.wait_text(ANA, "signs you in as owner");
    let link = shown.text.lines().last().unwrap();
    let secret = link.split("link=").nth(1).unwrap();
    let path = link.split_once(&format!("{port}")).unwrap().1;
    let address = format!("127.0.0.1:{port}");
    let journal = std::fs::read(bot.world.home().join("state.db")).unwrap();
    let wal = std::fs::read(bot.world.home().join("state.db-wal")).unwrap_or_default();
    for kept in [&journal, &wal, &bot.log().into_bytes()] {
        assert!(!kept.windows(secret.len()).any(|window| window == secret.as_bytes()), "the link is kept");
    }
    let page = crate::http::send(&address, "GET", path, &[], "").status(200).body;
    assert!(page.contains("<form"), "a preview of a link must not use it up: {page}");
    bot.is_clean();
}

#[test]
fn two_programs_on_one_token_are_told_apart_and_nothing_is_lost() {
    let bot = awake("");
    bot.telegram.rival();
    until(|| bot.log().contains("another program fetches this bot's updates").then_some(()));
    bot.telegram.say(ANA, ANA, "/status");
    bot.telegram.wait_text(ANA, "There is no run yet");
    bot.is_clean();
}

#[test]
fn what_lies_in_the_inbox_is_a_part_of_the_status() {
    let bot = awake("");
    let id = uuid::Uuid::now_v7().to_string();
    let path = bot.world.home().join("inbox").join(format!("{id}.yaml"));
    // Its writer is not done, so it stays where it is.
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
    file.write_all(b"pipeline: dev-task\nrepo: shop\ntask: Aun sin terminar\n").unwrap();
    bot.telegram.say(ANA, ANA, "/status");
    let shown = bot.telegram.wait_text(ANA, "In the inbox: 1");
    assert!(shown.text.contains(&id[id.len() - 8..]) && shown.text.contains("Aun sin terminar"), "{shown:?}");
    drop(file);
    bot.is_clean();
}

#[test]
fn the_doctor_looks_at_the_bot_without_taking_its_updates() {
    let bot = Bot::asleep("");
    let doctor = || -> Value {
        let mut command = bot.world.command(&["doctor", "--json"]);
        command.env("TELEGRAM_BOT_TOKEN", &bot.telegram.token).env("TELEGRAM_API_URL", &bot.telegram.url);
        let found: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
        let checks = found["checks"].as_array().unwrap();
        checks.iter().find(|check| check["id"] == "telegram").unwrap().clone()
    };
    let found = doctor();
    assert_eq!((&found["level"], &found["message"]), (&json!("ok"), &json!("@devo_test_bot answers")));
    bot.telegram.webhook("https://other.example/hook");
    let found = doctor();
    assert!(found["level"] == "warning" && found["message"].as_str().unwrap().contains("webhook"), "{found}");
    bot.telegram.fail("getMe", Wrong::Answer(401, refusal(401, "Unauthorized")));
    let found = doctor();
    assert!(found["message"].as_str().unwrap().contains("not accepted"), "{found}");
    bot.telegram.down(true);
    assert_eq!(doctor()["level"], "warning");
    assert!(!bot.telegram.calls().iter().any(|(method, ..)| method == "getUpdates" || method == "deleteWebhook"));
    let none = bot.world.devo(&["doctor", "--json"]);
    assert!(none.stdout.contains("TELEGRAM_BOT_TOKEN is not set"), "{}", none.stdout);
}
