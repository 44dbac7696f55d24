//! The web channel in one process: every route, who may use it, and what comes back.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::access::TOKEN_FILE;
use super::{Site, api, router, secret};
use crate::app::{App, Desk, Owned, Places, Settings, make_home};
use crate::core::event::{Ending, Event, EventBody, Question, QuestionKind, RunLimits, RunSpec, Who};
use crate::core::id::{RunId, StepId};
use crate::core::plan::{Estimate, Plan, PlanRecord};
use crate::core::state::RunState;
use crate::engine::{Stopped, Until};
use crate::frontends::words::Lang;
use crate::journal::Summary;

/// A daemon's web channel over a home of its own.
struct Place {
    dir: tempfile::TempDir,
    site: Arc<Site>,
    router: Router,
    stop: CancellationToken,
    token: String,
    owned: Owned,
}

/// What came back.
struct Reply {
    status: StatusCode,
    headers: header::HeaderMap,
    body: String,
}

impl Reply {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.body))
    }

    fn cookie(&self, name: &str) -> Option<String> {
        let all = self.headers.get_all(header::SET_COOKIE).iter().filter_map(|value| value.to_str().ok());
        let start = format!("{name}=");
        all.filter_map(|line| line.strip_prefix(&start)?.split(';').next().map(str::to_owned)).next()
    }
}

const PLANS: &str = "{name: plans, steps: {plan: {type: plan}, approve: {type: approve, needs: plan, revise: plan}}}";
const HOSTILE: &str = "\"'><script>alert(1)</script><b onclick=\"x\">{{ 7*7 }}</textarea>";
const VIEWER: &str = "viewer-token-0123456789";
const SUBMITTER: &str = "submitter-token-0123456789";
const PASSWORD: &str = "correct horse battery";

impl Place {
    async fn new() -> Self {
        Self::with("").await
    }

    /// `more` of the key `web`, each line by two blanks.
    async fn with(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        make_home(&home).unwrap();
        let config = format!(
            "repos: {{shop: {{url: /nowhere/shop.git, base: main}}}}\nsandbox: {{type: host}}\nweb:\n  hosts: [devo.example.org]\n{more}users:\n  vera: {{roles: [viewer], token: '{}'}}\n  \
             sam: {{roles: [submitter], token: '{}', password: '{}'}}\n",
            secret::token_hash(VIEWER),
            secret::token_hash(SUBMITTER),
            secret::password_hash(PASSWORD).unwrap(),
        );
        std::fs::write(home.join("devo.yaml"), config).unwrap();
        std::fs::write(home.join("pipelines/hello.yaml"), "name: hello\ninputs: {who: {type: string, required: true}}\nsteps: {a: {type: shell, run: 'echo {{ inputs.who }}'}}\n").unwrap();
        std::fs::write(home.join("pipelines/broken.yaml"), "steps: {a: {type: shel}}\n").unwrap();
        let places = Places::from_env(Some(home.clone()));
        let app = Arc::new(App::open(&Settings { places }).unwrap());
        let owned = app.engine("a test").await.unwrap();
        let stop = CancellationToken::new();
        let desk = Desk::new(app, owned.engine.clone(), stop.clone());
        let site = Site::new(desk).unwrap();
        let token = std::fs::read_to_string(home.join(TOKEN_FILE)).unwrap().trim().to_owned();
        Self { router: router(site.clone()), site, stop, token, owned, dir }
    }

    async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        Reply { status, headers, body: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    async fn get(&self, token: &str, path: &str) -> Reply {
        self.send(ask("GET", path, &[("authorization", &format!("Bearer {token}"))], Body::empty())).await
    }

    async fn post(&self, token: &str, path: &str, body: &Value) -> Reply {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        self.send(ask("POST", path, &headers, Body::from(body.to_string()))).await
    }

    /// Signs a browser in: the cookie, and the word that forms carry.
    async fn browser(&self, name: &str) -> Browser<'_> {
        let form = match name {
            "owner" => format!("token={}", self.token),
            _ => format!("user={name}&password={}", PASSWORD.replace(' ', "+")),
        };
        let headers = [("origin", "http://localhost"), ("content-type", "application/x-www-form-urlencoded")];
        let reply = self.send(ask("POST", "/login", &headers, Body::from(form))).await;
        assert_eq!(reply.status, StatusCode::SEE_OTHER, "{}", reply.body);
        let cookie = format!("devo_session={}", reply.cookie("devo_session").unwrap());
        let page = self.send(ask("GET", "/new", &[("cookie", &cookie)], Body::empty())).await.body;
        let csrf = page.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        Browser { place: self, cookie, csrf }
    }

    /// A run whose plan waits for approval: what an engine left, with hostile text wherever text can be. Nobody drives it.
    async fn planned(&self) -> String {
        let read = crate::yaml::parse("p", PLANS).and_then(|document| crate::pipeline::read(&document)).unwrap();
        let run = RunId(uuid::Uuid::now_v7());
        let spec = RunSpec {
            task_id: run,
            pipeline: read.name.clone(),
            pipeline_text: read.text.clone(),
            pipeline_hash: read.hash.clone(),
            repo: Some("shop".to_owned()),
            base: None,
            task: HOSTILE.to_owned(),
            inputs: serde_json::Map::new(),
            key: None,
            notify: vec![],
            who: Who { by: HOSTILE.to_owned(), channel: "cli".to_owned() },
            graph: read.nodes(),
            limits: RunLimits { usd: None, tokens: None, wall_ms: None, parallel: 1 },
            cassette: None,
            sandbox: "host".to_owned(),
        };
        let step = |id: &str| StepId::new(id).unwrap();
        let started = |id: &str| EventBody::StepStarted { step: step(id), attempt: 1, round: 1, turn: 1 };
        let plan = |title: &str, revision: u32| {
            let plan: Plan = serde_json::from_value(json!({"title": format!("{title} {HOSTILE}"), "summary": HOSTILE,
                "steps": [{"id": "s1", "title": HOSTILE, "intent": HOSTILE,
                           "files": [{"path": HOSTILE, "action": "create", "why": HOSTILE}], "verify": [{"check": HOSTILE}]}],
                "criteria": [{"id": "c1", "text": HOSTILE, "check": {"kind": "test", "ref": "test"}}],
                "assumptions": [HOSTILE], "questions": [HOSTILE], "risks": [HOSTILE], "out_of_scope": [HOSTILE]}))
            .unwrap();
            let record = PlanRecord::new(
                plan,
                Estimate { usd: 0.5, ..Estimate::default() },
                revision,
                "0".repeat(40),
                &read.hash,
            );
            EventBody::StepSucceeded { step: step("plan"), output: serde_json::to_value(record).unwrap() }
        };
        let ask = || {
            let question = Question { kind: QuestionKind::Approval, text: HOSTILE.to_owned() };
            EventBody::StepAsked { step: step("approve"), question, carry: Value::Null }
        };
        let who = Who { by: HOSTILE.to_owned(), channel: "cli".to_owned() };
        let again = |id: &str| EventBody::StepStarted { step: step(id), attempt: 2, round: 2, turn: 1 };
        let bodies = vec![
            EventBody::Accepted(Box::new(spec)),
            started("plan"),
            plan("first", 1),
            started("approve"),
            ask(),
            EventBody::Revised { step: step("approve"), text: HOSTILE.to_owned(), who },
            EventBody::Rewound { from: step("approve"), to: step("plan") },
            again("plan"),
            plan("second", 2),
            again("approve"),
            ask(),
        ];
        let at = self.site.app.clock.now();
        let events: Vec<Event> = (1..).zip(bodies).map(|(seq, body)| Event { seq, at, body }).collect();
        RunState::replay(&events).unwrap();
        let summary = Summary {
            status: "PLANNED".to_owned(),
            pipeline: read.name,
            repo: Some("shop".to_owned()),
            task: HOSTILE.to_owned(),
            waiting_for: Some("approval".to_owned()),
            ended: false,
        };
        let journal = &self.site.app.journal;
        journal.accept(events[0].clone(), summary.clone()).await.unwrap();
        journal.append(run, events[1..].to_vec(), summary).await.unwrap();
        let logs = self.site.app.run_dir(run).join("logs");
        std::fs::create_dir_all(&logs).unwrap();
        let line = crate::engine::Line {
            at,
            step: step("plan"),
            stream: crate::steps::Stream::Stdout,
            text: HOSTILE.to_owned(),
        };
        std::fs::write(logs.join("plan.jsonl"), serde_json::to_string(&line).unwrap() + "\n").unwrap();
        run.to_string()
    }

    async fn plan_hash(&self, id: &str) -> String {
        let run = self.get(&self.token, &format!("/api/v1/runs/{id}")).await.json();
        run["plan"]["hash"].as_str().unwrap().to_owned()
    }
}

struct Browser<'p> {
    place: &'p Place,
    cookie: String,
    csrf: String,
}

impl Browser<'_> {
    async fn page(&self, path: &str) -> Reply {
        let headers = [("cookie", self.cookie.as_str()), ("accept-language", "es")];
        self.place.send(ask("GET", path, &headers, Body::empty())).await
    }

    async fn form(&self, path: &str, fields: &str) -> Reply {
        self.form_from("http://localhost", path, &format!("csrf={}&{fields}", self.csrf)).await
    }

    async fn form_from(&self, origin: &str, path: &str, fields: &str) -> Reply {
        let headers = [
            ("cookie", self.cookie.as_str()),
            ("origin", origin),
            ("content-type", "application/x-www-form-urlencoded"),
        ];
        self.place.send(ask("POST", path, &headers, Body::from(fields.to_owned()))).await
    }
}

fn ask(method: &str, path: &str, headers: &[(&str, &str)], body: Body) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "localhost");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

/// Refuses a value that does not fit what the description says of that answer.
#[track_caller]
fn fits(description: &Value, path: &str, method: &str, status: &str, value: &Value) {
    let pointer = format!("/paths/{}/{method}/responses/{status}/content", path.replace('~', "~0").replace('/', "~1"));
    let content = description.pointer(&pointer).unwrap_or_else(|| panic!("{pointer} is not described"));
    let schema = content.as_object().unwrap().values().next().unwrap()["schema"].clone();
    let mut whole = schema;
    whole["components"] = description["components"].clone();
    let validator = jsonschema::validator_for(&whole).unwrap();
    let wrong: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(wrong.is_empty(), "{method} {path} {status}: {wrong:#?}\n{value:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_has_every_route_and_says_what_comes() {
    let place = Place::new().await;
    let description = place.get(&place.token, "/api/openapi.json").await.json();
    assert_eq!(description["openapi"], "3.1.0");
    for route in [
        "get /api/v1/runs",
        "post /api/v1/runs",
        "get /api/v1/runs/{id}",
        "post /api/v1/runs/{id}/signals",
        "get /api/v1/runs/{id}/events",
        "get /api/v1/runs/{id}/logs",
        "get /api/v1/runs/{id}/diff",
        "get /api/v1/runs/{id}/plan",
        "get /api/v1/pipelines",
        "get /healthz",
        "get /metrics",
        "get /api/openapi.json",
        "post /hooks/{name}",
    ] {
        let (method, path) = route.split_once(' ').unwrap();
        assert!(description["paths"][path][method].is_object(), "{route} is not described");
    }
    assert_eq!(api::ROUTES.len(), 13, "a new route belongs into the list above");

    let id = place.planned().await;
    let at = |rest: &str| format!("/api/v1/runs/{id}{rest}");
    let check = |path: &str, method: &str, reply: &Reply| {
        fits(&description, path, method, reply.status.as_str(), &reply.json());
    };
    check("/api/v1/runs", "get", &place.get(&place.token, "/api/v1/runs").await);
    check("/api/v1/runs", "get", &place.get(&place.token, "/api/v1/runs?limit=0").await);
    check("/api/v1/runs/{id}", "get", &place.get(&place.token, &at("")).await);
    check("/api/v1/runs/{id}", "get", &place.get("nobody", &at("")).await);
    check("/api/v1/runs/{id}/logs", "get", &place.get(&place.token, &at("/logs")).await);
    check("/api/v1/runs/{id}/plan", "get", &place.get(&place.token, &at("/plan")).await);
    let diff = place.get(&place.token, &at("/diff")).await;
    assert_eq!((diff.status, &diff.json()["patch"]), (StatusCode::OK, &json!("")), "nothing has changed yet");
    check("/api/v1/runs/{id}/diff", "get", &diff);
    let pipelines = place.get(&place.token, "/api/v1/pipelines").await;
    check("/api/v1/pipelines", "get", &pipelines);
    let broken = &pipelines.json()["pipelines"][0];
    assert!(
        broken["name"] == "broken" && broken["problems"][0].as_str().unwrap().contains("broken.yaml:1:"),
        "{broken}"
    );
    check("/healthz", "get", &place.send(ask("GET", "/healthz", &[], Body::empty())).await);

    let hash = place.plan_hash(&id).await;
    let refused =
        place.post(&place.token, &at("/signals"), &json!({"signal": "approve", "plan_hash": "sha256:0"})).await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (StatusCode::CONFLICT, Some("superseded")));
    let now = json!({"status": "PLANNED", "waiting_for": "approval", "plan_hash": hash, "revision": 2});
    assert_eq!(refused.json()["current"], now);
    check("/api/v1/runs/{id}/signals", "post", &refused);
    let bad = place.post(&place.token, &at("/signals"), &json!({"signal": "approve"})).await;
    assert_eq!((bad.status, bad.json()["code"].as_str()), (StatusCode::BAD_REQUEST, Some("missing_hash")));
    check("/api/v1/runs/{id}/signals", "post", &bad);
    let approved = place.post(&place.token, &at("/signals"), &json!({"signal": "approve", "plan_hash": hash})).await;
    assert_eq!(approved.status, StatusCode::OK, "{}", approved.body);
    check("/api/v1/runs/{id}/signals", "post", &approved);
    assert_eq!(
        (&approved.json()["approval"]["by"], &approved.json()["approval"]["channel"]),
        (&json!("owner"), &json!("api"))
    );
    place.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_fits_its_description() {
    let description = api::openapi_description();
    let plan = json!({"title": "t", "summary": "s", "steps": [{"id": "s1", "title": "t", "intent": "i", "depends_on": [],
        "files": [{"path": "a", "action": "create", "why": "w"}], "verify": [{"check": "test"}]}],
        "criteria": [{"id": "c1", "text": "t", "check": {"kind": "test", "ref": "test"}}], "tests_may_change": [],
        "assumptions": [], "questions": [], "out_of_scope": [], "risks": [], "files": ["a"],
        "estimate": {"usd": 0.1, "tokens": 3, "minutes": 1}, "revision": 1, "base_commit": "c", "hash": "sha256:0"});
    fits(&description, "/api/v1/runs/{id}/plan", "get", "200", &json!({"plan": plan, "revisions": [plan]}));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_do_its_part_and_nobody_else_anything() {
    let place = Place::new().await;
    let id = place.planned().await;
    // Whoever may submit is told what is wrong with it.
    let task = json!({"pipeline": "nope"});
    let own = json!({"pipeline": {"steps": {"a": {"type": "nope"}}}});
    let answer = json!({"signal": "approve", "plan_hash": place.plan_hash(&id).await});
    let revise = json!({"signal": "revise", "text": "otherwise"});
    let abort = json!({"signal": "abort"});
    let signals = format!("/api/v1/runs/{id}/signals");
    for token in ["", "wrong", &place.token[1..]] {
        for path in
            ["/api/v1/runs", &format!("/api/v1/runs/{id}/events"), "/metrics", "/api/openapi.json", "/api/v1/pipelines"]
        {
            let reply = place.get(token, path).await;
            assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{path}");
            assert_eq!(reply.headers["content-type"], "application/problem+json");
            assert!(reply.headers.contains_key("www-authenticate") && !reply.body.contains(&id));
        }
        assert_eq!(place.post(token, "/api/v1/runs", &task).await.status, StatusCode::UNAUTHORIZED);
        assert_eq!(place.post(token, &signals, &answer).await.status, StatusCode::UNAUTHORIZED);
    }
    for (token, submits, brings_own, answers) in [(VIEWER, 403, 403, 403), (SUBMITTER, 422, 403, 403)] {
        assert_eq!(place.get(token, "/api/v1/runs").await.status, StatusCode::OK);
        assert_eq!(place.post(token, "/api/v1/runs", &task).await.status.as_u16(), submits);
        assert_eq!(place.post(token, "/api/v1/runs", &own).await.status.as_u16(), brings_own);
        assert_eq!(place.post(token, &signals, &answer).await.status.as_u16(), answers);
    }
    assert_eq!(place.post(&place.token, "/api/v1/runs", &own).await.status.as_u16(), 422);
    for word in [&abort, &revise] {
        assert_eq!(place.post(VIEWER, &signals, word).await.status, StatusCode::FORBIDDEN);
    }
    let before = place.site.desk.events(id.parse().unwrap(), 0).await.unwrap().len();
    assert_eq!(before, 11, "nothing of that was recorded");
    assert_eq!(place.post(SUBMITTER, &signals, &revise).await.status, StatusCode::OK);
    place.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_of_a_task_are_told() {
    let place = Place::new().await;
    let bearer = format!("Bearer {}", place.token);
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json"), ("idempotency-key", "k1")];
    let body = json!({"pipeline": "hello", "key": "k2"}).to_string();
    let differing = place.send(ask("POST", "/api/v1/runs", &headers, Body::from(body))).await;
    assert_eq!((differing.status, differing.json()["code"].as_str()), (StatusCode::BAD_REQUEST, Some("bad_key")));
    let post = async |body: &Value| place.post(&place.token, "/api/v1/runs", body).await;
    for (body, status, word) in [
        (json!({"pipeline": "helo"}), 422, "did you mean `hello`?"),
        (json!({"pipeline": "/etc/passwd"}), 422, "name under pipelines/"),
        (json!({"pipeline": "../devo.yaml"}), 422, "name under pipelines/"),
        (json!({"pipeline": "hello", "inputs": {}}), 422, "`who` is required"),
        (json!({"pipeline": "hello", "inpts": {}}), 422, "did you mean `inputs`?"),
        (json!({"pipeline": "hello", "key": ""}), 422, "1 to 200 bytes"),
        (json!({"pipeline": "dev-task", "repo": "no", "task": "x"}), 422, "no"),
        (json!({"pipeline": "hello", "inputs": {"who": "x"}, "key": "telegram:1:2"}), 422, "begins like the keys"),
        (json!({"pipeline": "hello", "inputs": {"who": "x"}, "key": "hook:ci:2"}), 422, "begins like the keys"),
        (json!([1]), 400, "the body does not fit"),
    ] {
        let reply = post(&body).await;
        assert_eq!(reply.status.as_u16(), status, "{body}: {}", reply.body);
        assert!(reply.body.contains(word), "{word:?} is missing in {}", reply.body);
    }
    let plain = [("authorization", bearer.as_str()), ("content-type", "text/plain")];
    let reply = place.send(ask("POST", "/api/v1/runs", &plain, Body::from("{}"))).await;
    assert_eq!(reply.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let long = json!({"pipeline": "hello", "task": "x".repeat(2 * 1024 * 1024)});
    assert_eq!(post(&long).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    place.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged_and_filtered() {
    let place = Place::new().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.insert(0, place.planned().await);
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = place.get(&place.token, &format!("/api/v1/runs?limit=2&status=planned{cursor}")).await.json();
        seen.extend(page["runs"].as_array().unwrap().iter().map(|run| run["task_id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ids);
    let none = place.get(&place.token, "/api/v1/runs?repo=other").await.json();
    assert_eq!(none, json!({"runs": [], "next": null}));
    for bad in
        ["cursor=x", "status=nope", "limit=9999", "limit=x", "nope=1", "cursor=0193b2c0-7e1f-7abc-8def-0123456789ab"]
    {
        assert_eq!(
            place.get(&place.token, &format!("/api/v1/runs?{bad}")).await.status,
            StatusCode::BAD_REQUEST,
            "{bad}"
        );
    }
    let metrics = place.get(&place.token, "/metrics").await.body;
    assert!(metrics.contains("devo_runs_waiting_human 5\n") && metrics.contains("devo_info{version="), "{metrics}");
    assert!(ids.iter().all(|id| !metrics.contains(id.as_str())), "an id is no label");
    place.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_someone_is_shown_however_much_came_since() {
    let place = Place::new().await;
    let waits = place.planned().await;
    let site = &place.site;
    let (_, state) = site.app.load(waits.parse().unwrap()).await.unwrap();
    let now = site.app.clock.now();
    let end = |n: u64, status: Ending| {
        let spec = RunSpec { task_id: RunId(uuid::Uuid::now_v7()), task: format!("later {n}"), ..state.spec().clone() };
        let (id, at) = (spec.task_id, now.plus_ms(n + 1));
        let summary = |status: &str| Summary {
            status: status.to_owned(),
            pipeline: spec.pipeline.clone(),
            repo: spec.repo.clone(),
            task: spec.task.clone(),
            waiting_for: None,
            ended: status != "EXECUTING",
        };
        let (begun, over) =
            (summary("EXECUTING"), summary(if status == Ending::Failed { "FAILED" } else { "COMPLETED" }));
        let first = Event { seq: 1, at, body: EventBody::Accepted(Box::new(spec.clone())) };
        let last = Event { seq: 2, at, body: EventBody::Finished { status, error: None } };
        let journal = site.app.journal.clone();
        async move {
            journal.accept(first, begun).await.unwrap();
            journal.append(id, vec![last], over).await.unwrap();
            id.to_string()
        }
    };
    futures_util::future::join_all((0..600).map(|n| end(n, Ending::Completed))).await;
    let failed = end(600, Ending::Failed).await;
    let page = place.browser("owner").await.page("/").await.body;
    let part = |id: &str| page.split(&format!("id=\"{id}\"")).nth(1).unwrap().split("</section>").next().unwrap();
    let needs = part("needs");
    let (one, two) = (needs.find(&waits).expect("it waits"), needs.find(&failed).expect("it failed"));
    assert!(one < two, "what waits comes first");
    assert_eq!(page.split("<title>").nth(1).unwrap().split(')').next(), Some("(2"));
    assert_eq!(part("recent").matches("<li>").count(), 20);
    assert!(!part("recent").contains(&failed) && part("recent").contains("later 599"));
    assert!(!part("running").contains("<li>"));
    place.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_last_driver_is_leaving_is_not_left_alone() {
    let place = Place::new().await;
    let run: RunId = place.planned().await.parse().unwrap();
    // Somebody else drives it: it waits for an approval, and is not given back before the stop.
    let (engine, leave) = (place.owned.engine.clone(), CancellationToken::new());
    let token = leave.clone();
    let mut other = Box::pin(async move { engine.drive(run, Until::Ended, token).await });
    let begun = std::future::poll_fn(|cx| std::task::Poll::Ready(other.as_mut().poll(cx).is_pending())).await;
    assert!(begun, "it drives from its first look on");
    let other = tokio::spawn(other);
    place.site.desk.take_up().await.unwrap();
    assert_eq!(place.site.desk.counts(), (1, 0, 0), "the desk wants it");
    leave.cancel();
    assert_eq!(other.await.unwrap().unwrap(), Stopped::Interrupted);
    while place.site.desk.counts() != (0, 0, 1) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    place.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_is_followed_also_where_its_asker_leaves() {
    let place = Place::new().await;
    let mut ids = Vec::new();
    for _ in 0..24 {
        ids.push(place.planned().await);
    }
    place.site.desk.take_up().await.unwrap();
    while place.site.desk.counts() != (0, 0, ids.len()) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    for (n, id) in (0..).zip(&ids) {
        let body = json!({"signal": "approve", "plan_hash": place.plan_hash(id).await}).to_string();
        let bearer = format!("Bearer {}", place.token);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let request = ask("POST", &format!("/api/v1/runs/{id}/signals"), &headers, Body::from(body));
        let asker = tokio::spawn(place.router.clone().oneshot(request));
        // The connection breaks at another moment each time.
        tokio::time::sleep(std::time::Duration::from_micros(150 * n)).await;
        asker.abort();
    }
    // Whatever was approved is driven (and fails: its repository is nowhere); nothing else rests.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let open = place.site.desk.open().await.unwrap();
        if open.iter().all(crate::journal::RunRow::waits) && place.site.desk.counts() == (0, 0, open.len()) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{:?}: {open:#?}", place.site.desk.counts());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    place.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_the_address_is_its_word_and_not_the_askers() {
    let place = Place::with("  behind_proxy: true\n").await;
    let mut headers = axum::http::HeaderMap::new();
    let mut told = |line: &str| {
        headers.append("x-forwarded-for", line.parse().unwrap());
        super::guard::address(&place.site, &headers, None).to_string()
    };
    assert_eq!(told("10.0.0.1"), "10.0.0.1");
    assert_eq!(told("10.0.0.2, 10.0.0.3"), "10.0.0.3", "the last line is the proxy's, and its last entry");
    assert_eq!(told("nonsense"), "127.0.0.1", "and no other counts");
    place.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_is_not_taken_is_told_so() {
    let place = Place::new().await;
    let reply = place.send(ask("DELETE", "/api/v1/runs", &[], Body::empty())).await;
    assert_eq!((reply.status, reply.json()["code"].as_str()), (StatusCode::METHOD_NOT_ALLOWED, Some("wrong_method")));
    assert!(reply.headers["allow"].to_str().unwrap().contains("POST"), "{:?}", reply.headers);
    let page = place.send(ask("POST", "/pipelines", &[("origin", "http://localhost")], Body::empty())).await;
    assert!(page.status == StatusCode::METHOD_NOT_ALLOWED && page.body.contains("<!doctype html>"), "{}", page.body);
    place.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_by_cookie_need_our_page_and_its_word() {
    let place = Place::new().await;
    let id = place.planned().await;
    let browser = place.browser("owner").await;
    let path = format!("/runs/{id}/signals");
    let csrf = browser.csrf.clone();
    for (origin, fields) in [
        ("http://evil.example", format!("csrf={csrf}&signal=abort")),
        ("null", format!("csrf={csrf}&signal=abort")),
        ("http://localhost:81", format!("csrf={csrf}&signal=abort")),
        ("http://localhost", "signal=abort".to_owned()),
        ("http://localhost", format!("csrf={}&signal=abort", &csrf[1..])),
    ] {
        let reply = browser.form_from(origin, &path, &fields).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{origin} {fields}");
    }
    let api = format!("/api/v1/runs/{id}/signals");
    let body = json!({"signal": "abort"}).to_string();
    let cookie = ("cookie", browser.cookie.as_str());
    let kind = ("content-type", "application/json");
    for headers in [
        vec![cookie, kind],
        vec![cookie, kind, ("origin", "http://localhost")],
        vec![cookie, kind, ("x-csrf-token", &csrf)],
        vec![cookie, kind, ("x-csrf-token", &csrf), ("origin", "http://evil.example")],
    ] {
        let reply = place.send(ask("POST", &api, &headers, Body::from(body.clone()))).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{headers:?}");
    }
    let run = place.get(&place.token, &format!("/api/v1/runs/{id}")).await.json();
    assert_eq!(run["waiting_for"]["kind"], "approval", "nothing was done");
    let headers = [cookie, kind, ("x-csrf-token", csrf.as_str()), ("origin", "http://localhost")];
    assert_eq!(place.send(ask("POST", &api, &headers, Body::from(body))).await.status, StatusCode::OK);
    // Signing in from a foreign page would sign someone in as somebody else.
    let headers = [("origin", "http://evil.example"), ("content-type", "application/x-www-form-urlencoded")];
    let reply = place.send(ask("POST", "/login", &headers, Body::from(format!("token={}", place.token)))).await;
    assert!(reply.status == StatusCode::FORBIDDEN && reply.cookie("devo_session").is_none());
    place.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_hosts_get_nothing_on_any_route() {
    let place = Place::new().await;
    let id = place.planned().await;
    let bearer = format!("Bearer {}", place.token);
    let paths =
        ["/", "/login", "/healthz", "/api/v1/runs", "/assets/style.css", &format!("/api/v1/runs/{id}/events"), "/none"];
    for path in paths {
        for host in
            ["evil.example", "localhost.evil.example", "devo.example.org.evil", "", "127.0.0.1.nip.example:7333"]
        {
            let reply =
                place.send(ask("GET", path, &[("host", host), ("authorization", &bearer)], Body::empty())).await;
            assert_eq!(reply.status, StatusCode::MISDIRECTED_REQUEST, "{host} {path}");
            assert!(!reply.body.contains(&id));
        }
    }
    for host in [
        "localhost:7333",
        "LOCALHOST",
        "127.0.0.1:1",
        "[::1]:7333",
        "192.168.1.5",
        "devo.example.org",
        "Devo.Example.Org:443",
    ] {
        let reply = place.send(ask("GET", "/healthz", &[("host", host)], Body::empty())).await;
        assert_eq!(reply.status, StatusCode::OK, "{host}");
    }
    place.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn people_sign_in_and_out_and_links_work_once() {
    let place = Place::new().await;
    let anonymous = place.send(ask("GET", "/runs/1?x=2", &[], Body::empty())).await;
    assert_eq!(anonymous.status, StatusCode::SEE_OTHER);
    assert_eq!(anonymous.headers["location"], "/login?next=%2Fruns%2F1%3Fx%3D2");
    let elsewhere = place.send(ask("GET", "/runs/1", &[("sec-fetch-site", "cross-site")], Body::empty())).await;
    assert!(
        elsewhere.status == StatusCode::OK && elsewhere.body.contains("url=&#x2f;runs&#x2f;1"),
        "{}",
        elsewhere.body
    );

    let sam = place.browser("sam").await;
    let page = sam.page("/").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.body.contains("lang=\"es\"") && page.body.contains("Bandeja") && page.body.contains("sam"));
    assert!(sam.page("/?lang=en").await.body.contains("lang=\"en\""));
    assert_eq!(sam.form("/logout", "").await.status, StatusCode::SEE_OTHER);
    assert_eq!(sam.page("/").await.status, StatusCode::SEE_OTHER, "the session is gone");

    let link = super::access::make_link(&place.site.app, "sam").await.unwrap();
    assert!(link.starts_with("http://127.0.0.1:7333/login?link="), "{link}");
    let secret = link.split_once("link=").unwrap().1;
    let shown = place.send(ask("GET", &format!("/login?link={secret}"), &[], Body::empty())).await;
    assert!(shown.status == StatusCode::OK && shown.cookie("devo_session").is_none(), "looking uses nothing up");
    let headers = [("origin", "http://localhost"), ("content-type", "application/x-www-form-urlencoded")];
    let used = || ask("POST", "/login", &headers, Body::from(format!("link={secret}&next=//evil.example")));
    let first = place.send(used()).await;
    assert_eq!((first.status, &first.headers["location"]), (StatusCode::SEE_OTHER, &"/".parse().unwrap()));
    let cookie =
        first.headers.get_all("set-cookie").iter().find(|value| value.to_str().unwrap().contains("devo_session"));
    let cookie = cookie.unwrap().to_str().unwrap();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && !cookie.contains("Secure"),
        "{cookie}"
    );
    assert_eq!(place.send(used()).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(super::access::make_link(&place.site.app, "nobody").await.unwrap_err().code, "unknown_user");

    // Guessing is slow.
    let guess = || ask("POST", "/login", &headers, Body::from("user=sam&password=wrong"));
    let mut last = StatusCode::OK;
    for _ in 0..12 {
        last = place.send(guess()).await.status;
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
    // What is stored is no secret.
    let stored = place.site.app.journal.kept_with("web", "").await.unwrap();
    assert!(!format!("{stored:?}").contains(secret) && !stored.is_empty());
    place.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_the_credentials_that_opened_it() {
    let place = Place::new().await;
    let (app, home) = (&place.site.app, place.site.app.home.clone());
    let (owner, sam) = (place.browser("owner").await, place.browser("sam").await);
    let stands = async |browser: &Browser<'_>| browser.page("/").await.status == StatusCode::OK;
    // What says nothing of them changes nothing for them.
    let config = std::fs::read_to_string(home.join("devo.yaml")).unwrap();
    let without_vera = config.replace(&secret::token_hash(VIEWER), &secret::token_hash("another-token-0123456789"));
    std::fs::write(home.join("devo.yaml"), &without_vera).unwrap();
    app.reload().unwrap();
    assert!(stands(&owner).await && stands(&sam).await);

    let password = app.config().users["sam"].password.clone().unwrap();
    let other = without_vera.replace(&password, &secret::password_hash("another password").unwrap());
    std::fs::write(home.join("devo.yaml"), &other).unwrap();
    app.reload().unwrap();
    assert!(stands(&owner).await && !stands(&sam).await, "the password is another one");

    std::fs::write(home.join(TOKEN_FILE), "a-token-that-is-another-one\n").unwrap();
    app.reload().unwrap();
    assert!(!stands(&owner).await, "the owner's token is another one");
    assert_eq!(place.get(&place.token, "/api/v1/runs").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(place.get("a-token-that-is-another-one", "/api/v1/runs").await.status, StatusCode::OK);
    place.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_leads_to_an_address_that_a_browser_can_open() {
    let place = Place::new().await;
    let (app, home) = (&place.site.app, place.site.app.home.clone());
    let config = std::fs::read_to_string(home.join("devo.yaml")).unwrap();
    let listening = |web: &str| {
        std::fs::write(home.join("devo.yaml"), config.replace("hosts: [devo.example.org]", web)).unwrap();
        app.reload().unwrap();
    };
    for web in ["listen: '0.0.0.0:7333'", "listen: '[::]:7333'"] {
        listening(web);
        let error = super::access::make_link(app, "sam").await.unwrap_err();
        assert!(error.code == "no_url" && error.message.contains("web.url"), "{error:?}");
    }
    listening("listen: '0.0.0.0:0'");
    super::access::listening(app, "0.0.0.0:4711".parse().unwrap()).await.unwrap();
    assert_eq!(super::access::make_link(app, "sam").await.unwrap_err().code, "no_url");
    listening("listen: '0.0.0.0:0'\n  url: 'https://devo.example.org/'");
    let link = super::access::make_link(app, "sam").await.unwrap();
    assert!(link.starts_with("https://devo.example.org/login?link="), "{link}");
    place.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_check_of_the_doctor_has_a_title_in_the_readers_language() {
    let place = Place::new().await;
    let checks = place.site.app.checks().await;
    assert!(checks.len() > 8, "{}", checks.len());
    for lang in [Lang::En, Lang::Es] {
        let page = place.browser("owner").await.page(&format!("/doctor?lang={}", lang.tag())).await.body;
        for check in &checks {
            let title = lang.check_title(&check.id);
            assert!(title != check.id && page.contains(&format!("<b>{title}</b>")), "{}: {title}", check.id);
        }
    }
    place.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comment_has_as_many_letters_as_it_is_said_to_have() {
    let place = Place::new().await;
    let id = place.planned().await;
    let browser = place.browser("owner").await;
    let comment = format!("/runs/{id}/comment");
    let enter = "%0D%0A";
    let fits = format!("path=a.rs&text={}{enter}{}", "%C3%B1".repeat(2_000), "%C3%B1".repeat(1_999));
    let sent = browser.form(&comment, &fits).await;
    assert_eq!(sent.status, StatusCode::SEE_OTHER, "{}", sent.body);
    let id = place.planned().await;
    let refused = browser.form(&format!("/runs/{id}/comment"), &format!("text={}", "a".repeat(4_001))).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    place.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_made_small_and_with_everything_escaped() {
    let place = Place::new().await;
    let id = place.planned().await;
    let browser = place.browser("owner").await;
    let run = format!("/runs/{id}");
    let logs = format!("/runs/{id}/logs");
    for path in [
        "/",
        "/new",
        "/new?pipeline=hello&task=%3Cb%3E",
        "/pipelines",
        "/doctor",
        &run,
        &logs,
        "/login",
        "/login?link=%22%3E%3Cb%3Ex",
    ] {
        let page = browser.page(path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}: {}", page.body);
        assert!(page.body.len() < 60_000, "{path} has {} bytes", page.body.len());
        assert!(
            !page.body.contains("<b onclick") && !page.body.contains("<script>") && !page.body.contains("\"><b>x"),
            "{path}"
        );
        assert!(!page.body.contains(" style=") && !page.body.contains("onclick=\""), "{path}: the policy forbids it");
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"));
        assert_eq!(page.headers["x-content-type-options"], "nosniff");
        assert_eq!(page.headers["x-frame-options"], "DENY");
        assert!(!page.headers.contains_key("access-control-allow-origin"));
    }
    let page = browser.page(&run).await.body;
    assert!(page.contains("&lt;script&gt;alert(1)") && page.contains("{{ 7*7 }}"), "{page}");
    assert!(page.contains("Aprobar la revisión 2") && page.contains("class=\"add\""), "the change since revision 1");
    let svg = browser.page(&format!("/runs/{id}/graph.svg")).await;
    assert_eq!(svg.headers["content-type"], "image/svg+xml");
    let total: usize = {
        let mut sum = page.len();
        for name in ["style.css", "live.js", "icon.svg"] {
            let asset = browser.page(&format!("/assets/{name}")).await;
            assert_eq!(asset.status, StatusCode::OK, "{name}");
            sum += asset.body.len();
        }
        sum
    };
    assert!(total < 100_000, "the first page with all it loads has {total} bytes");
    for (path, status) in [
        ("/none", 404),
        ("/runs/zz", 404),
        ("/runs/0193b2c0-7e1f-7abc-8def-0123456789ab", 404),
        ("/assets/../mod.rs", 404),
    ] {
        assert_eq!(browser.page(path).await.status.as_u16(), status, "{path}");
    }
    // A stale approval says what is true now, on the page; the right one is recorded once.
    let signals = format!("/runs/{id}/signals");
    let late = browser.form(&signals, "signal=approve&plan_hash=sha256%3A0").await;
    assert_eq!(late.status, StatusCode::CONFLICT);
    assert!(late.body.contains("revision 2"), "{}", late.body);
    let right = format!("signal=approve&plan_hash={}", place.plan_hash(&id).await.replace(':', "%3A"));
    let approved = browser.form(&signals, &right).await;
    assert_eq!(approved.headers["location"], format!("/runs/{id}?done=approve").as_str(), "{}", approved.body);
    assert_eq!(browser.form(&signals, &right).await.status, StatusCode::CONFLICT, "twice is told");
    let wrong = browser.form("/new", "pipeline=hello&task=hola%3Cb%3E").await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(wrong.body.contains("hola&lt;b&gt;"), "what was written is not lost");
    place.stop.cancel();
    assert!(place.dir.path().exists());
}
