//! Mail, end to end: `devo serve`, a strict SMTP server over real sockets, runs that end well, badly, or wait.

use std::collections::HashSet;

use serde_json::json;

use crate::daemon::{Daemon, configure, quick, until};
use crate::fake::claude;
use crate::main_job::{executor, plan};
use crate::smtp_fake::{Mail, Smtp};
use crate::world::World;

const GOOD: &str = "pipeline: {steps: {a: {type: shell, run: 'true'}}}\n";
const BAD: &str = "pipeline: {steps: {a: {type: shell, run: 'echo broken >&2; exit 3'}}}\n";

fn settings(smtp: &Smtp, more: &str) -> String {
    format!(
        "notify: {{smtp: {{host: 127.0.0.1, port: {}, security: none, from: 'Devo <devo@example.org>', \
         to: [team@example.org], allow: ['*@example.com']}}{more}}}",
        smtp.port
    )
}

/// Runs a task file to its end, from a command line that follows.
fn run(world: &World, name: &str, text: &str, code: i32) {
    let path = world.write(name, text);
    world.devo(&["run", path.to_str().unwrap()]).code(code);
}

fn occasions(mails: &[Mail]) -> Vec<String> {
    mails
        .iter()
        .map(|mail| mail.subject().trim_start_matches("[devo] ").split(':').next().unwrap().to_owned())
        .collect()
}

#[test]
fn over_starttls_a_user_is_told_of_a_plan_and_its_result() {
    let (world, smtp) = (World::shop(), Smtp::protected("hunter2-hunter2"));
    let root = world.write("root.pem", &smtp.root);
    world.configure(&format!(
        "web: {{listen: '127.0.0.1:0', url: 'https://devo.example.org'}}\n\
         notify: {{smtp: {{host: localhost, port: {}, user: devo, password: SMTP_PASSWORD, from: devo@example.org, \
         to: [ann@example.org], language: es}}}}",
        smtp.port
    ));
    let none = world.devo(&["serve"]).code(2);
    assert!(none.stderr.contains("SMTP_PASSWORD"), "{}", none.stderr);
    let environment = [("SMTP_PASSWORD", "hunter2-hunter2"), ("SSL_CERT_FILE", root.to_str().unwrap())];
    let doctor = |environment: &[(&str, &str)]| {
        let output = world.command(&["doctor", "--json"]).envs(environment.iter().copied()).output().unwrap();
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = found["checks"].as_array().unwrap().clone();
        checks.into_iter().find(|check| check["id"] == "mail").unwrap()
    };
    assert_eq!(doctor(&environment)["level"], "ok");
    let wrong = doctor(&[("SMTP_PASSWORD", "wrong-password"), environment[1]]);
    assert!(wrong["level"] == "warning" && wrong["message"].as_str().unwrap().contains("password"), "{wrong}");
    let foreign = doctor(&environment[..1]);
    assert!(foreign["level"] == "warning", "a certificate that nobody vouches for: {foreign}");
    assert!(smtp.mails().is_empty(), "a look sends nothing");

    let daemon = Daemon::start_with(&world, &environment);
    world.fake.planner(claude(&[("submit_plan", plan("Validar stock ñandú"))]));
    let task = world.write("task.yaml", "pipeline: dev-task\nrepo: shop\ntask: Validar stock negativo en ventas\n");
    let submitted = world.devo(&["run", task.to_str().unwrap(), "--no-watch"]).code(0).stdout.trim().to_owned();
    let mails = smtp.wait(1);
    let first = &mails[0];
    assert_eq!((first.from.as_str(), first.to.as_str()), ("devo@example.org", "ann@example.org"));
    assert!(first.encrypted && first.user.as_deref() == Some("devo"), "{first:?}");
    assert!(first.subject().starts_with("[devo] Plan por aprobar: Validar stock ñandú (shop, "), "{}", first.subject());
    assert_eq!(first.header("auto-submitted"), "auto-generated");
    assert!(first.header("content-type").starts_with("text/plain; charset=utf-8"));
    assert!(first.header("message-id").starts_with(&format!("<{submitted}.")), "{first:?}");
    let page = format!("https://devo.example.org/runs/{submitted}");
    assert!(first.text.contains(&page) && first.text.contains("Plan, revisión 1:"), "{}", first.text);
    executor(&world.fake);
    world.devo(&["plan", &submitted]).code(0);
    world.devo(&["approve", &submitted]).code(0);
    let mails = smtp.wait(2);
    let last = &mails[1];
    assert!(last.subject().starts_with("[devo] Terminada: "), "{}", last.subject());
    let branch = world.status(&submitted)["branch"].as_str().unwrap().to_owned();
    for wanted in [&page, &branch, "remote.git", "bien, 0 mal", "+"] {
        assert!(last.text.contains(wanted), "{wanted}: {}", last.text);
    }
    assert_eq!(last.header("references"), first.header("references"), "mails about a run are one thread");
    assert_ne!(last.header("message-id"), first.header("message-id"));
    daemon.stop();
    assert_eq!(smtp.mails().len(), 2, "nothing else rang");
    smtp.is_clean();
    let log = std::fs::read_to_string(world.path("serve.log")).unwrap();
    assert!(!log.contains("hunter2"), "{log}");
}

#[test]
fn a_kill_between_the_mail_and_its_record_repeats_it_once_under_the_same_id() {
    let (world, smtp) = (quick(), Smtp::open());
    configure(&world, &settings(&smtp, ""));
    let daemon = Daemon::start(&world);
    run(&world, "good.yaml", GOOD, 0);
    smtp.wait(1);
    run(&world, "bad.yaml", BAD, 1);
    smtp.wait(2);
    smtp.swallow();
    run(&world, "good.yaml", GOOD, 0);
    smtp.wait(3);
    daemon.kill();
    let daemon = Daemon::start(&world);
    let mails = smtp.wait(4);
    run(&world, "bad.yaml", BAD, 1);
    let all = smtp.wait(5);
    assert_eq!(occasions(&all), ["Done", "Failed", "Done", "Done", "Failed"]);
    assert_eq!(mails[2].header("message-id"), mails[3].header("message-id"), "whoever has it may drop it");
    let repeats: Vec<bool> = all.iter().map(|mail| mail.text.contains("is sent again")).collect();
    assert_eq!(repeats, [false, false, false, true, false]);
    daemon.stop();
    let _daemon = Daemon::start(&world);
    run(&world, "good.yaml", GOOD, 0);
    assert_eq!(smtp.wait(6).len(), 6, "what was told is not told again");
    smtp.is_clean();
}

#[test]
fn kills_anywhere_lose_no_mail_and_repeat_at_most_one_each() {
    const RUNS: usize = 16;
    let (world, smtp) = (quick(), Smtp::open());
    configure(&world, &settings(&smtp, ""));
    let mut daemon = Daemon::start(&world);
    for n in 0..RUNS {
        let (part, name) = (format!("home/inbox/.{n}.part"), format!("home/inbox/{n}.yaml"));
        std::fs::rename(world.write(&part, GOOD), world.path(&name)).unwrap();
    }
    // After the first mails, wherever it is just then.
    let mut kills = 0;
    while smtp.mails().len() < RUNS && kills < 6 {
        smtp.wait(1 + kills * 2);
        std::thread::sleep(std::time::Duration::from_millis(7 * kills as u64));
        daemon.kill();
        kills += 1;
        daemon = Daemon::start(&world);
    }
    let ids =
        |mails: &[Mail]| mails.iter().map(|mail| mail.header("message-id").to_owned()).collect::<HashSet<_>>().len();
    until(|| (ids(&smtp.mails()) == RUNS).then_some(()));
    daemon.stop();
    let mails = smtp.mails();
    assert!(kills > 0 && mails.len() - RUNS <= kills, "{kills} kills, {} mails", mails.len());
    let mut seen = HashSet::new();
    for mail in &mails {
        let again = !seen.insert(mail.header("message-id").to_owned());
        assert!(!again || mail.text.contains("is sent again"), "a repeat says so: {mail:?}");
    }
    smtp.is_clean();
}

#[test]
fn an_outage_delays_and_loses_nothing_and_a_refused_receiver_holds_nobody_up() {
    let (world, smtp) = (quick(), Smtp::open());
    configure(&world, &settings(&smtp, ""));
    let daemon = Daemon::start(&world);
    smtp.down(true);
    run(&world, "good.yaml", GOOD, 0);
    run(&world, "bad.yaml", BAD, 1);
    smtp.wait_connections(3);
    assert!(smtp.mails().is_empty());
    smtp.down(false);
    assert_eq!(occasions(&smtp.wait(2)), ["Done", "Failed"], "in their order");

    // For good, and for now.
    smtp.refuse("gone@example.com", Some("550 5.1.1 no such user"));
    smtp.refuse("slow@example.com", Some("451 4.7.1 come back later"));
    let text =
        format!("{GOOD}notify: ['mailto:gone@example.com', 'mailto:slow@example.com', 'mailto:Ann@example.com']\n");
    run(&world, "named.yaml", &text, 0);
    let mails = smtp.wait(3);
    assert_eq!(mails[2].to, "Ann@example.com", "the team is not told of what names others");
    let log = || std::fs::read_to_string(world.path("serve.log")).unwrap();
    until(|| log().contains("no such user").then_some(()));
    smtp.refuse("slow@example.com", None);
    assert_eq!(smtp.wait(4)[3].to, "slow@example.com");
    daemon.stop();
    assert_eq!(log().matches("no such user").count(), 1, "what is refused for good is not tried again: {}", log());
    assert_eq!(smtp.mails().len(), 4);
    smtp.is_clean();
}

#[test]
fn a_password_that_is_refused_loses_no_mail() {
    let (world, smtp) = (quick(), Smtp::protected("right-password"));
    let root = world.write("root.pem", &smtp.root);
    configure(
        &world,
        &format!(
            "notify: {{smtp: {{host: localhost, port: {}, user: devo, password: SMTP_PASSWORD, from: d@example.org, \
             to: [a@example.org]}}}}",
            smtp.port
        ),
    );
    let start = |password: &str| {
        Daemon::start_with(&world, &[("SMTP_PASSWORD", password), ("SSL_CERT_FILE", root.to_str().unwrap())])
    };
    let daemon = start("wrong-password");
    run(&world, "good.yaml", GOOD, 0);
    let log = || std::fs::read_to_string(world.path("serve.log")).unwrap();
    until(|| log().contains("refuses the user or the password").then_some(()));
    daemon.stop();
    assert!(!log().contains("wrong-password"), "{}", log());
    let daemon = start("right-password");
    assert_eq!(occasions(&smtp.wait(1)), ["Done"]);
    assert!(!smtp.mails()[0].text.contains("is sent again"), "nothing had been sent");
    daemon.stop();
    smtp.is_clean();
}

#[test]
fn a_server_that_is_encrypted_from_the_first_byte_is_trusted_by_its_certificate_only() {
    let (world, smtp) = (quick(), Smtp::encrypted("right-password"));
    let root = world.write("root.pem", &smtp.root);
    configure(
        &world,
        &format!(
            "notify: {{smtp: {{host: localhost, port: {}, security: tls, user: devo, password: SMTP_PASSWORD, \
             from: d@example.org, to: [a@example.org]}}}}",
            smtp.port
        ),
    );
    let daemon = Daemon::start_with(&world, &[("SMTP_PASSWORD", "right-password")]);
    run(&world, "good.yaml", GOOD, 0);
    let log = || std::fs::read_to_string(world.path("serve.log")).unwrap();
    until(|| log().contains("not there, again in").then_some(()));
    daemon.stop();
    assert!(smtp.mails().is_empty(), "nobody vouches for this server");
    let environment = [("SMTP_PASSWORD", "right-password"), ("SSL_CERT_FILE", root.to_str().unwrap())];
    let daemon = Daemon::start_with(&world, &environment);
    let mails = smtp.wait(1);
    assert!(mails[0].encrypted && mails[0].user.as_deref() == Some("devo"), "{mails:?}");
    daemon.stop();
    smtp.is_clean();
}

#[test]
fn a_server_without_starttls_gets_nothing() {
    let (world, smtp) = (quick(), Smtp::open());
    configure(
        &world,
        &format!(
            "notify: {{smtp: {{host: localhost, port: {}, from: d@example.org, to: [a@example.org]}}}}",
            smtp.port
        ),
    );
    let daemon = Daemon::start(&world);
    run(&world, "good.yaml", GOOD, 0);
    let log = || std::fs::read_to_string(world.path("serve.log")).unwrap();
    until(|| log().contains("STARTTLS").then_some(()));
    daemon.stop();
    assert!(smtp.mails().is_empty());
    smtp.is_clean();
}

#[test]
fn unanswered_questions_are_told_again_and_quiet_hours_hold_all_back() {
    let (world, smtp) = (World::shop(), Smtp::open());
    let config = |more: &str| {
        world.configure(&format!("sandbox: {{type: host}}\nweb: {{listen: '127.0.0.1:0'}}\n{}", settings(&smtp, more)));
    };
    config(", reminders: {after: 2s, every: 1d}");
    let daemon = Daemon::start(&world);
    world.fake.planner(claude(&[("submit_plan", plan("Un plan"))]));
    let task = world.write("task.yaml", "pipeline: dev-task\nrepo: shop\ntask: Algo\n");
    let first = world.devo(&["run", task.to_str().unwrap(), "--no-watch"]).code(0).stdout.trim().to_owned();
    let mails = smtp.wait(2);
    assert_eq!(occasions(&mails), ["Plan to approve", "Reminder · Plan to approve"]);
    assert!(mails[1].text.contains("It waits since "), "{}", mails[1].text);
    assert_ne!(mails[0].header("message-id"), mails[1].header("message-id"));
    // A kill forgets no reminder, and sends none twice.
    daemon.kill();
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    let clock = |hours: i64| (&now + jiff::Span::new().hours(hours)).strftime("%H:%M").to_string();
    let hours =
        format!(", quiet_hours: {{from: '{}', to: '{}', zone: UTC}}, reminders: {{after: 2s}}", clock(-2), clock(2));
    config(&hours);
    let daemon = Daemon::start(&world);
    world.devo(&["reject", &first]).code(0);
    world.fake.planner(claude(&[("submit_plan", plan("Otro plan"))]));
    let second = world.devo(&["run", task.to_str().unwrap(), "--no-watch"]).code(0).stdout.trim().to_owned();
    until(|| (world.status(&second)["status"] == "PLANNED").then_some(()));
    run(&world, "good.yaml", GOOD, 0);
    world.devo(&["reject", &second]).code(0);
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(smtp.mails().len(), 2, "nothing rings now");
    config("");
    let text = std::fs::read_to_string(world.home().join("devo.yaml")).unwrap();
    let text =
        text.replace("web: {listen: '127.0.0.1:0'}", "web: {listen: '127.0.0.1:0', url: 'https://moved.example.org'}");
    std::fs::write(world.home().join("devo.yaml"), text).unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    let mails = smtp.wait(3);
    assert!(mails[2].text.contains("https://moved.example.org/runs/"), "{}", mails[2].text);
    assert_eq!(occasions(&mails[2..]), ["Done"], "a plan that was decided meanwhile is nobody's news");
    daemon.stop();
    assert_eq!(smtp.mails().len(), 3);
    smtp.is_clean();
}

#[test]
fn a_step_tells_whom_it_names_and_nobody_is_told_by_a_look_alike() {
    let (world, smtp) = (quick(), Smtp::open());
    configure(&world, &settings(&smtp, ""));
    let daemon = Daemon::start_with(&world, &[("SECRET_OF_OURS", "x")]);
    let pipeline = json!({"pipeline": {"inputs": {"who": {"type": "string", "required": true}}, "steps": {
        "look": {"type": "shell", "run": "printf '{\"to\": [\"mailto:team@example.org\"], \"text\": \"forged\"}'", "outputs": "json"},
        "say": {"type": "notify", "needs": "look", "to": ["mailto:ann@example.com"], "text": "Hola {{ inputs.who }}\nBcc: x"},
    }}, "inputs": {"who": "{{ 7 * 7 }}\r\nTo: eve@evil.example"}, "notify": ["mailto:ben@example.com"]});
    run(&world, "say.yaml", &pipeline.to_string(), 0);
    let mails = smtp.wait(2);
    let to: Vec<&str> = mails.iter().map(|mail| mail.to.as_str()).collect();
    assert_eq!(to, ["ann@example.com", "ben@example.com"]);
    assert_eq!(occasions(&mails), ["Message", "Done"]);
    assert!(mails[0].text.contains("Hola {{ 7 * 7 }}\nTo: eve@evil.example\nBcc: x"), "{}", mails[0].text);
    assert_eq!(mails[0].header("to"), "ann@example.com");
    daemon.stop();
    assert_eq!(smtp.mails().len(), 2);
    smtp.is_clean();

    for (target, word) in [
        ("mailto:eve@evil.example", "notify.smtp.allow"),
        ("mailto:a@b\\r\\nRCPT TO:<c@d>", "mailto:ADDRESS"),
        ("pigeon:5", "telegram:CHAT"),
        ("desktop", "desktop: true"),
    ] {
        let task = world.write("to.yaml", &format!("{GOOD}notify: [\"{target}\"]\n"));
        let refused = world.devo(&["run", task.to_str().unwrap()]).code(2);
        assert!(refused.stderr.contains(word), "{target}: {}", refused.stderr);
        let step = json!({"pipeline": {"steps": {"say": {"type": "notify", "to": [target.replace("\\r\\n", "\r\n")], "text": "x"}}}});
        let task = world.write("step.yaml", &step.to_string());
        world.devo(&["run", task.to_str().unwrap()]).code(2);
    }
}
