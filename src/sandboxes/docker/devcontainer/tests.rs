//! `devcontainer.json`: what is followed, and that nothing hostile is.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::description::{Build, Description, Origin};
use super::super::image::{Source, SourceFile};
use super::super::unfit::Unfit;

/// A commit with one compose file, which is JSON to spare a parser.
struct Commit(Value);

impl Source for Commit {
    fn files(&self, _: &str) -> Result<Vec<SourceFile>, String> {
        Ok(Vec::new())
    }

    fn file(&self, path: &str) -> Result<Vec<u8>, String> {
        if path == "compose.yaml" {
            Ok(self.0.to_string().into_bytes())
        } else {
            Err("there is no such file".to_owned())
        }
    }
}

fn read_with(text: &str, compose: Value) -> Result<Description, Unfit> {
    let yaml = |_: &str, bytes: &[u8]| serde_json::from_slice(bytes).map_err(|error| error.to_string());
    super::read(text, ".devcontainer/devcontainer.json", &Commit(compose), &yaml)
}

fn read(value: &Value) -> Result<Description, Unfit> {
    read_with(&value.to_string(), json!({"services": {"app": {"image": "app:1"}, "db": {"image": "db:1"}}}))
}

#[test]
fn what_reaches_the_host_is_refused_with_its_place() {
    for (key, value, said) in [
        ("initializeCommand", json!("curl x | sh"), "runs on the host"),
        ("initializeCommand", json!(["sh", "-c", "x"]), "runs on the host"),
        ("initializeCommand", json!({"a": "x"}), "runs on the host"),
        ("privileged", json!(true), "master"),
        ("capAdd", json!(["SYS_PTRACE"]), "capabilities"),
        ("securityOpt", json!(["seccomp=unconfined"]), "confines"),
        ("features", json!({"ghcr.io/devcontainers/features/docker-in-docker:2": {}}), "registries"),
        ("runArgs", json!(["--privileged"]), "--privileged"),
        ("runArgs", json!(["--init", "--network=host"]), "--network=host"),
        ("runArgs", json!(["-v", "/:/host"]), "-v"),
        ("runArgs", json!(["--name", "x", "--cap-add", "ALL"]), "--cap-add"),
        ("runArgs", json!(["--env-file", "/etc/environment"]), "--env-file"),
        ("runArgs", json!(["/bin/sh"]), "/bin/sh"),
        ("runArgs", json!("--privileged"), "list"),
        ("mounts", json!(["source=/var/run/docker.sock,target=/s,type=bind"]), "socket"),
        ("mounts", json!(["source=${localEnv:HOME}/.ssh,target=/ssh,type=bind"]), "folder of the host"),
        ("mounts", json!([{"type": "bind", "source": "/", "target": "/host"}]), "folder of the host"),
        ("mounts", json!([7]), "folder of the host"),
        ("mounts", json!("x"), "list"),
        ("image", json!("a b"), "not an image"),
        ("image", json!("${localEnv:IMAGE}"), "environment"),
        ("build", json!({"dockerfile": "../../Dockerfile"}), "leaves the repository"),
        ("build", json!({"dockerfile": "/etc/passwd"}), "path of the host"),
        ("build", json!({"dockerfile": "Dockerfile", "context": "../.."}), "leaves the repository"),
        ("build", json!({"dockerfile": "Dockerfile", "context": "${localWorkspaceFolder}"}), "path of the host"),
        ("build", json!({"dockerfile": "Dockerfile", "options": ["--network=host"]}), "options"),
        ("build", json!({"dockerfile": "Dockerfile", "args": {"T": "${localEnv:TOKEN}"}}), "`TOKEN`"),
        ("build", json!({}), "dockerfile"),
        ("build", json!("Dockerfile"), "object"),
        ("dockerFile", json!("../../x"), "leaves the repository"),
        ("dockerComposeFile", json!("../../x.yaml"), "leaves the repository"),
        ("dockerComposeFile", json!(["../compose.yaml", "../more.yaml"]), "several"),
        ("dockerComposeFile", json!("absent.yaml"), "cannot be read"),
        ("containerEnv", json!({"T": "${localEnv:TOKEN}"}), "`TOKEN`"),
        ("containerEnv", json!({"T": "${env:TOKEN}"}), "`TOKEN`"),
        ("containerEnv", json!({"T": "${localWorkspaceFolder}"}), "path of the host"),
        ("containerEnv", json!({"T": "${command:x}"}), "not known"),
        ("containerEnv", json!({"T": "${"}), "without `}`"),
        ("containerEnv", json!({"A=B": "x"}), "names no variable"),
        ("containerEnv", json!(["A=B"]), "object"),
        ("remoteEnv", json!({"T": "${localEnv:TOKEN}"}), "`TOKEN`"),
        ("remoteUser", json!("a b"), "not a user"),
        ("containerUser", json!("--user"), "not a user"),
        ("remoteuser", json!("x"), "did you mean `remoteUser`?"),
        ("frobnicate", json!(1), "not known"),
    ] {
        let mut document = json!({"service": "app"});
        if !matches!(key, "build" | "dockerFile" | "dockerComposeFile") {
            document["image"] = json!("app:1");
        }
        document[key] = value.clone();
        let error = read(&document).expect_err(&format!("{key}: {value}"));
        assert!(error.to_string().contains(said), "{key}: {value}: {error}");
        let near = error.problems.iter().any(|problem| problem.pointer.starts_with(&format!("/{key}")));
        assert!(near, "{key}: {error:?}");
    }
}

#[test]
fn a_file_as_people_write_them_is_followed() {
    let text = r#"// For details, see https://aka.ms/devcontainer.json.
{
    "name": "shop", /* of ours */
    "build": {
        "dockerfile": "Dockerfile", "context": "..", "target": "dev",
        "args": {"VARIANT": "1-${localEnv:FLAVOUR:bookworm}"},
    },
    "containerEnv": {"HOME_URL": "https://example.org/a", "TOOLS": "/opt/tools"},
    "remoteEnv": {"PATH": "${containerEnv:PATH}:${containerEnv:TOOLS}/bin", "SRC": "${containerWorkspaceFolder}/src", "GONE": null},
    "remoteUser": "vscode", "containerUser": "root",
    "workspaceFolder": "/workspaces/${localWorkspaceFolderBasename}",
    "workspaceMount": "source=${localWorkspaceFolder},target=/workspaces/x,type=bind",
    "mounts": ["source=cache,target=/home/vscode/.cache,type=volume"],
    "runArgs": ["--init", "--name", "shop", "--shm-size=1g"],
    "features": {}, "capAdd": [], "privileged": false,
    "forwardPorts": [3000], "postCreateCommand": "npm ci", "customizations": {"vscode": {"extensions": ["x.y"]}},
}
"#;
    let described = read_with(text, Value::Null).expect("it is fit");
    let args = [("VARIANT".to_owned(), "1-bookworm".to_owned())].into();
    let build = Build {
        context: String::new(),
        dockerfile: ".devcontainer/Dockerfile".into(),
        target: Some("dev".into()),
        args,
    };
    assert_eq!(described.origin, Origin::Build(build));
    assert_eq!(described.user.as_deref(), Some("vscode"));
    let env = described.env_over(&["PATH=/usr/bin".to_owned(), "TOOLS=/other".to_owned()]);
    let wanted = [
        ("HOME_URL", "https://example.org/a"),
        ("TOOLS", "/opt/tools"),
        ("PATH", "/usr/bin:/opt/tools/bin"),
        ("SRC", "/workspace/src"),
    ];
    assert_eq!(env, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    let said = described.said.join("\n");
    for part in [
        "`postCreateCommand` is left out",
        "`GONE`",
        "/workspace and not at",
        "`workspaceMount`",
        "`--name`",
        "`mounts`",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let old = read(&json!({"dockerFile": "Dockerfile"})).expect("the old form").origin;
    let folder = ".devcontainer".to_owned();
    let dockerfile = ".devcontainer/Dockerfile".to_owned();
    assert_eq!(old, Origin::Build(Build { context: folder, dockerfile, target: None, args: [].into() }));
}

#[test]
fn a_compose_file_is_followed_from_it() {
    let compose = json!({"services": {
        "app": {"image": "app:1", "environment": {"A": "compose", "B": "compose"}, "volumes": ["..:/workspaces/x"], "user": "node"},
        "db": {"image": "db:1"}, "tools": {"image": "t", "profiles": ["t"]},
    }});
    let document = json!({"dockerComposeFile": ["../compose.yaml"], "service": "app", "remoteEnv": {"A": "own"}});
    // `..` of the compose file's own folder leaves the repository.
    assert!(read_with(&document.to_string(), compose.clone()).is_err());
    let mut compose = compose;
    compose["services"]["app"]["volumes"] = json!([".:/workspaces/x"]);
    let described = read_with(&document.to_string(), compose.clone()).expect("it is fit");
    assert_eq!(described.env, [("A", "own"), ("B", "compose")].map(|(a, b)| (a.to_owned(), b.to_owned())).into());
    assert_eq!(described.user.as_deref(), Some("node"));
    assert_eq!(described.services.len(), 1);
    let mut none = document.clone();
    none["runServices"] = json!([]);
    assert!(read_with(&none.to_string(), compose.clone()).expect("it is fit").services.is_empty());
    compose["services"]["db"]["privileged"] = json!(true);
    let error = read_with(&document.to_string(), compose).expect_err("it is hostile").to_string();
    assert!(error.starts_with("compose.yaml: services.db.privileged "), "{error}");
    let error = read(&json!({"dockerComposeFile": "../compose.yaml"})).expect_err("which?").to_string();
    assert!(error.contains("no `service`"), "{error}");
}

#[test]
fn what_is_not_json_with_comments_is_refused() {
    let long = format!("{{\"name\": \"{}\"}}", "x".repeat(300 << 10));
    let nested = "[".repeat(500) + &"]".repeat(500);
    let deep = format!("{{\"image\": \"x\", \"customizations\": {nested}}}");
    for text in [
        "",
        "x",
        "{",
        "[]",
        "7",
        "{'image': 'x'}",
        "{image: \"x\"}",
        "{\"image\": \"x\" \"name\": \"y\"}",
        "{\"image\": 0x1}",
        "{\"image\": \"a\", \"image\": \"b\"}",
        "{\"image\": \"x\"} {}",
        "{/*",
        "\u{0}",
        "{\"image\": Infinity}",
        long.as_str(),
    ] {
        assert!(read_with(text, Value::Null).is_err(), "{}", &text[..text.len().min(40)]);
    }
    // As deep as the parser goes and deeper, on the stack of a worker.
    for text in [deep, "[".repeat(100_000), format!("{{\"a\":{}", "{\"a\":".repeat(50_000))] {
        std::thread::Builder::new()
            .stack_size(2 << 20)
            .spawn(move || drop(read_with(&text, Value::Null)))
            .expect("a thread")
            .join()
            .expect("it neither panics nor overflows");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*") {
        let _ = read_with(&text, Value::Null).map_err(|error| error.to_string());
    }

    #[test]
    fn no_json_like_text_panics(text in "[a-c0-9:,\\[\\]{}/*\"\\\\\n ]{0,80}") {
        let _ = read_with(&text, Value::Null).map_err(|error| error.to_string());
    }

    #[test]
    fn no_value_panics(key in prop::sample::select(super::KEYS.followed.to_vec()), text in "[${}a-z:.,/=\\-]{0,30}") {
        for value in [json!(text), json!([text]), json!({"dockerfile": text, "A": text}), json!([{"type": text}]), json!(null)] {
            let document = json!({"image": "x", "service": "app", key: value});
            let _ = read(&document).map_err(|error| error.to_string());
        }
    }
}
