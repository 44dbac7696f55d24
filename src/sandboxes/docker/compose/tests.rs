//! Compose files: what is followed, and that nothing hostile is.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::description::{Build, Copied, Description, Origin, Ready};
use super::super::image::{Source, SourceFile};
use super::super::unfit::Unfit;
use super::{Beside, read};

/// Files of a commit.
struct Files(&'static [(&'static str, &'static str)]);

impl Source for Files {
    fn files(&self, _: &str) -> Result<Vec<SourceFile>, String> {
        Ok(Vec::new())
    }

    fn file(&self, path: &str) -> Result<Vec<u8>, String> {
        let found = self.0.iter().find(|(known, _)| *known == path);
        found.map(|(_, text)| text.as_bytes().to_vec()).ok_or_else(|| "there is no such file".to_owned())
    }
}

const NOTHING: Files = Files(&[]);

/// Reads `app`, with `deploy/compose.yaml` as the file.
fn app(document: &Value, source: &Files) -> Result<Description, Unfit> {
    read(document, "deploy/compose.yaml", Some("app"), Beside::Needed, source)
}

/// An `app` that depends on a `db` with these keys.
fn with(db: Value) -> Value {
    let mut document = json!({
        "services": {"app": {"image": "app:1", "depends_on": ["db"]}, "db": {"image": "db:1"}},
        "volumes": {
            "data": null, "theirs": {"external": true},
            "bound": {"driver": "local", "driver_opts": {"type": "none", "o": "bind", "device": "/etc"}},
        },
        "networks": {"outside": {"external": true}, "own": null, "lan": {"driver": "macvlan"}},
    });
    for (key, value) in db.as_object().expect("keys") {
        document["services"]["db"][key] = value.clone();
    }
    document
}

#[test]
fn what_reaches_the_host_is_refused_with_its_place() {
    for (key, value, said) in [
        ("privileged", json!(true), "host's master"),
        ("privileged", json!("yes"), "host's master"),
        ("network_mode", json!("host"), "another network"),
        ("network_mode", json!("container:other"), "another network"),
        ("network_mode", json!("service:app"), "another network"),
        ("pid", json!("host"), "namespace"),
        ("pid", json!("container:x"), "namespace"),
        ("ipc", json!("host"), "namespace"),
        ("ipc", json!("shareable"), "namespace"),
        ("uts", json!("host"), "host"),
        ("userns_mode", json!("host"), "host"),
        ("cgroup", json!("host"), "host"),
        ("cgroup_parent", json!("/x"), "host"),
        ("cap_add", json!(["SYS_ADMIN"]), "`SYS_ADMIN`"),
        ("cap_add", json!(["ALL"]), "`ALL`"),
        ("cap_add", json!(["cap_net_admin"]), "`cap_net_admin`"),
        ("cap_add", json!("ALL"), "list"),
        ("security_opt", json!(["seccomp:unconfined"]), "seccomp"),
        ("security_opt", json!(["apparmor=unconfined"]), "apparmor"),
        ("security_opt", json!(["no-new-privileges:false"]), "no-new-privileges:false"),
        ("devices", json!(["/dev/sda:/dev/sda"]), "host"),
        ("device_cgroup_rules", json!(["a *:* rwm"]), "host"),
        ("gpus", json!("all"), "host"),
        ("deploy", json!({"resources": {"reservations": {"devices": [{"capabilities": ["gpu"]}]}}}), "devices"),
        ("runtime", json!("runc"), "host"),
        ("sysctls", json!({"kernel.core_pattern": "|/x"}), "kernel"),
        ("group_add", json!(["docker"]), "groups"),
        ("extra_hosts", json!(["host.docker.internal:host-gateway"]), "addresses"),
        ("external_links", json!(["other"]), "outside"),
        ("volumes_from", json!(["container:other"]), "another container"),
        ("use_api_socket", json!(true), "socket"),
        ("provider", json!({"type": "evil"}), "program"),
        ("secrets", json!(["key"]), "secret"),
        ("configs", json!(["key"]), "file"),
        ("extends", json!({"file": "/etc/x.yaml", "service": "x"}), "another place"),
        ("label_file", json!("/etc/passwd"), "file"),
        ("post_start", json!([{"command": "x", "privileged": true}]), "start"),
        ("networks", json!(["outside"]), "`outside`"),
        ("networks", json!({"lan": null}), "`lan`"),
        ("networks", json!(["unheard-of"]), "`unheard-of`"),
        ("volumes", json!(["/etc:/etc"]), "path of the host"),
        ("volumes", json!(["/:/host:ro"]), "path of the host"),
        ("volumes", json!(["~/.ssh:/ssh"]), "path of the host"),
        ("volumes", json!(["~root:/root"]), "path of the host"),
        ("volumes", json!(["../..:/x"]), "leaves the repository"),
        ("volumes", json!(["./../../..:/x"]), "leaves the repository"),
        ("volumes", json!(["./a/../../../x:/x"]), "leaves the repository"),
        ("volumes", json!(["./.git:/x"]), "git's own"),
        ("volumes", json!(["../.Git/config:/x"]), "git's own"),
        ("volumes", json!(["C:\\x:/x"]), "no place"),
        ("volumes", json!(["/var/run/docker.sock:/var/run/docker.sock"]), "socket"),
        ("volumes", json!(["./x:/var/run/docker.sock"]), "socket"),
        ("volumes", json!(["${SOCK:-/var/run/docker.sock}:/s"]), "socket"),
        ("volumes", json!(["${HOME}/x:/x"]), "path of the host"),
        ("volumes", json!(["theirs:/x"]), "somebody else's"),
        ("volumes", json!(["bound:/x"]), "folder of the host"),
        ("volumes", json!(["unheard-of:/x"]), "not declared"),
        ("volumes", json!(["data:x"]), "no place"),
        ("volumes", json!(["data:/a/../../x"]), "no place"),
        ("volumes", json!([{"type": "bind", "source": "/etc", "target": "/x"}]), "path of the host"),
        ("volumes", json!([{"type": "npipe", "source": "x", "target": "/x"}]), "`npipe`"),
        ("volumes", json!([{"type": "cluster", "target": "/x"}]), "`cluster`"),
        ("volumes", json!([{"type": "bind", "source": "."}]), "target"),
        ("volumes", json!([7]), "text or a mapping"),
        ("volumes", json!("data:/x"), "list"),
        ("tmpfs", json!("run"), "absolute"),
        ("env_file", json!("/etc/environment"), "path of the host"),
        ("env_file", json!(["../../x.env"]), "leaves the repository"),
        ("env_file", json!([{"path": "~/.env", "required": false}]), "path of the host"),
        ("env_file", json!("absent.env"), "not in the base commit"),
        ("image", json!("a b"), "not an image"),
        ("image", json!("../../x"), "not an image"),
        ("image", json!("-x"), "not an image"),
        ("image", json!("a?b=c"), "not an image"),
        ("image", json!("${IMAGE}"), "not an image"),
        ("image", json!(["x"]), "text"),
        ("image", json!("${IMAGE:?set it}"), "`IMAGE`"),
        ("build", json!("/srv"), "path of the host"),
        ("build", json!("https://example.org/x.git"), "not a path"),
        ("build", json!("git@example.org:x"), "not a path"),
        ("build", json!({"context": "../.."}), "leaves the repository"),
        ("build", json!({"context": ".", "dockerfile": "/etc/passwd"}), "path of the host"),
        ("build", json!({"context": ".", "dockerfile": "../../x"}), "leaves the repository"),
        ("build", json!({"context": ".", "ssh": ["default"]}), "agent"),
        ("build", json!({"context": ".", "secrets": ["x"]}), "secret"),
        ("build", json!({"context": ".", "network": "host"}), "network"),
        ("build", json!({"context": ".", "privileged": true}), "host"),
        ("build", json!({"context": ".", "entitlements": ["security.insecure"]}), "host"),
        ("build", json!({"context": ".", "additional_contexts": {"x": "/"}}), "folders"),
        ("build", json!({"context": ".", "frobnicate": 1}), "not known"),
        ("build", json!(7), "folder or a mapping"),
        ("environment", json!({"A B": "x"}), "names no variable"),
        ("environment", json!(["=x"]), "names no variable"),
        ("environment", json!({"A": ["x"]}), "text"),
        ("environment", json!({"A": "x\u{0}y"}), "NUL"),
        ("environment", json!({"A": "${TOKEN:?}"}), "`TOKEN`"),
        ("environment", json!("A=b"), "mapping or a list"),
        ("command", json!("sh 'x"), "quotes"),
        ("command", json!({"a": 1}), "text"),
        ("user", json!("a b"), "not a user"),
        ("user", json!("-u"), "not a user"),
        ("healthcheck", json!({"test": ["SHELL", "x"]}), "no check"),
        ("healthcheck", json!({"test": "x", "interval": "soon"}), "not a duration"),
        ("healthcheck", json!({"tset": "x"}), "not known"),
        ("depends_on", json!({"app": {"condition": "service_started"}}), "wait for each other"),
        ("depends_on", json!({"x": {"condition": "service_gone"}}), "`service_gone`"),
        ("depends_on", json!(["unheard-of"]), "`unheard-of`"),
        ("links", json!(["app:a/b"]), "host name"),
        ("container_name", json!("a b"), "host name"),
        ("enviroment", json!({}), "did you mean `environment`?"),
        ("frobnicate", json!(1), "not known"),
    ] {
        let refused = app(&with(json!({key: value})), &NOTHING);
        let error = refused.expect_err(&format!("{key}: {value}"));
        let text = error.to_string();
        assert!(text.contains(said), "{key}: {value}: {text}");
        assert!(text.starts_with("deploy/compose.yaml: services"), "{text}");
        let whole = ["wait for each other", "`unheard-of`, which another"].iter().any(|part| text.contains(part));
        let at = format!("/services/db/{key}");
        let placed = error.problems.iter().any(|problem| problem.pointer.starts_with(&at));
        assert!(placed || whole || text.contains("host name"), "{key}: {error:?}");
    }
}

#[test]
fn the_commands_own_service_is_held_to_the_same() {
    for (key, value) in [
        ("privileged", json!(true)),
        ("volumes", json!(["/:/host"])),
        ("volumes", json!(["/var/run/docker.sock:/var/run/docker.sock"])),
        ("network_mode", json!("host")),
        ("cap_add", json!(["SYS_PTRACE"])),
        ("build", json!("..//..")),
    ] {
        let document = json!({"services": {"app": {"image": "app:1", key: value}}});
        assert!(app(&document, &NOTHING).is_err(), "{key}: {value}");
    }
}

#[test]
fn documents_that_are_none_are_refused() {
    for (document, said) in [
        (json!(null), "must be a mapping"),
        (json!([]), "must be a mapping"),
        (json!("x"), "must be a mapping"),
        (json!({}), "services"),
        (json!({"services": {}}), "services"),
        (json!({"services": []}), "services"),
        (json!({"services": {"app": null}}), "must be a mapping"),
        (json!({"services": {"app": {}}}), "neither `image` nor `build`"),
        (json!({"services": {"ap": {"image": "x"}}}), "did you mean `ap`?"),
        (json!({"services": {"app": {"image": "x"}, "a/b": {"image": "x"}}}), "host name"),
        (json!({"include": ["../x.yaml"], "services": {"app": {"image": "x"}}}), "another file"),
        (json!({"servces": {}, "services": {"app": {"image": "x"}}}), "did you mean `services`?"),
        (json!({"services": {"app": {"<<": "x", "image": "x"}}}), "no mapping"),
        (json!({"services": {"app": {"image": "x", "depends_on": {"app": null}}}}), "wait for each other"),
    ] {
        let error = app(&document, &NOTHING).expect_err(&document.to_string()).to_string();
        assert!(error.contains(said), "{document}: {error}");
    }
    let two = json!({"services": {"a": {"image": "x"}, "b": {"image": "x"}}});
    let error = read(&two, "c.yaml", None, Beside::Needed, &NOTHING).expect_err("which?").to_string();
    assert!(error.contains("a, b"), "{error}");
    // Every problem is told at once.
    let error = app(&with(json!({"privileged": true, "pid": "host", "frobnicate": 1})), &NOTHING).expect_err("three");
    assert_eq!(error.problems.len(), 3, "{error}");
}

#[test]
fn a_file_as_people_write_them_is_followed() {
    let document = json!({
        "name": "shop", "version": "3.9", "x-base": {"restart": "always", "environment": {"A": "base", "B": "base"}},
        "services": {
            "app": {
                "build": {"context": "..", "dockerfile": "deploy/Dockerfile", "target": "dev", "args": {"V": 3}},
                "environment": ["DATABASE_URL=postgres://db:5432/x", "EMPTY=", "FROM_OUTSIDE"],
                "env_file": [{"path": "../app.env", "required": false}, "./gone.env"],
                "user": "1000:1000", "command": "run it", "ports": ["80:80"], "working_dir": "/app",
                "volumes": ["..:/app:cached", "data:/cache", {"type": "tmpfs", "target": "/t"}],
                "depends_on": {"db": {"condition": "service_healthy"}, "migrate": {"condition": "service_completed_successfully"}},
                "tty": true, "stdin_open": true, "init": true, "privileged": false, "cap_drop": ["ALL"],
            },
            "migrate": {"image": "shop:${TAG:-dev}", "entrypoint": "", "command": ["migrate"], "depends_on": ["db"]},
            "db": {
                "<<": [{"environment": {"A": "first"}}, {"restart": "always", "user": "postgres"}],
                "image": "postgres:17", "container_name": "shop_db", "shm_size": "1gb", "security_opt": ["no-new-privileges:true"],
                "command": "postgres -c 'fsync=off'",
                "volumes": ["data:/var/lib/postgresql/data", "./init:/docker-entrypoint-initdb.d:ro", "/anonymous"],
                "healthcheck": {"test": ["CMD-SHELL", "pg_isready -U $$USER"], "interval": "2s", "timeout": "3s", "retries": 40, "start_period": "1m"},
                "tmpfs": ["/run:size=64m,mode=755"], "networks": {"back": {"aliases": ["database"]}}, "logging": {"driver": "none"},
                "cap_add": ["CHOWN"],
            },
            "web": {"image": "web"},
        },
        "volumes": {"data": {}}, "networks": {"back": null},
    });
    let source = Files(&[("deploy/gone.env", "TOKEN=abc\n")]);
    let described = app(&document, &source).expect("it is fit");
    let args = BTreeMap::from([("V".to_owned(), "3".to_owned())]);
    let build =
        Build { context: String::new(), dockerfile: "deploy/Dockerfile".into(), target: Some("dev".into()), args };
    assert_eq!(described.origin, Origin::Build(build));
    let env = [("DATABASE_URL", "postgres://db:5432/x"), ("EMPTY", ""), ("TOKEN", "abc")];
    assert_eq!(described.env, env.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    assert_eq!(described.user.as_deref(), Some("1000:1000"));
    let names: Vec<&str> = described.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["db", "migrate"]);
    let (db, migrate) = (&described.services[0], &described.services[1]);
    assert_eq!(db.aliases, ["database", "shop_db"]);
    assert_eq!(db.command.as_deref(), Some(["postgres", "-c", "fsync=off"].map(str::to_owned).as_slice()));
    assert_eq!(db.user.as_deref(), Some("postgres"));
    assert_eq!(db.env, [("A".to_owned(), "first".to_owned())].into());
    assert_eq!(db.volumes, ["/var/lib/postgresql/data", "/anonymous"]);
    let copied = Copied { from: "deploy/init".into(), to: "/docker-entrypoint-initdb.d".into() };
    assert_eq!(db.copies, [copied]);
    assert_eq!(db.ready, Ready::Command(["/bin/sh", "-c", "pg_isready -U $USER"].map(str::to_owned).to_vec()));
    assert_eq!(db.ready_within_s, 60 + 40 * 5);
    assert_eq!(db.tmpfs, [("/run".to_owned(), Some(64 << 20))].into());
    assert_eq!(migrate.origin, Origin::Image("shop:dev".into()));
    assert_eq!(migrate.ready, Ready::Completed);
    assert_eq!(migrate.entrypoint, Some(vec![String::new()]));
    assert_eq!(migrate.needs, ["db"]);
    let said = described.said.join("\n");
    for part in [
        "`ports` is left out",
        "`shm_size` is left out",
        "`FROM_OUTSIDE` has no value",
        "`web` is not started",
        "the repository is at /workspace and not at `/app`",
        "`db` gets a copy of `deploy/init`",
        "`networks` is left out",
        "the volume `data` is empty",
        "the volume `data` is left out where commands run",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[test]
fn who_runs_beside_is_chosen() {
    let document = json!({"services": {
        "app": {"image": "x"}, "a": {"image": "x", "links": ["b:bee"]}, "b": {"image": "x"},
        "tools": {"image": "x", "profiles": ["tools"], "privileged": true},
    }});
    let names = |beside| -> Vec<String> {
        let described = read(&document, "c.yaml", Some("app"), beside, &NOTHING).expect("it is fit");
        described.services.into_iter().map(|service| service.name).collect()
    };
    assert_eq!(names(Beside::Needed), Vec::<String>::new());
    assert_eq!(names(Beside::All), ["b", "a"]);
    assert_eq!(names(Beside::Named(&["b".to_owned()])), ["b"]);
    let named = ["tools".to_owned()];
    assert!(read(&document, "c.yaml", Some("app"), Beside::Named(&named), &NOTHING).is_err(), "what runs is looked at");
    let described = read(&document, "c.yaml", Some("app"), Beside::All, &NOTHING).expect("it is fit");
    assert_eq!(described.services[0].aliases, ["bee"]);
    let disabled = json!({"services": {"app": {"image": "x", "depends_on": ["db"]}, "db": {"image": "x", "healthcheck": {"disable": true}}}});
    assert_eq!(app(&disabled, &NOTHING).expect("it is fit").services[0].ready, Ready::Started);
}

/// Values made of what compose files are made of, so that readers get far.
fn value() -> impl Strategy<Value = Value> {
    let words = prop::sample::select(vec![
        "app",
        "db",
        "host",
        "./x:/y",
        "../..:/",
        "${A:-${B}}",
        "$",
        "${",
        "/",
        "data:/x",
        "CMD",
        "10s",
        "\u{0}",
        "é:/é",
        ":",
        "::",
        "a=b",
        "=",
        "x y 'z",
        "service_healthy",
        "true",
        "",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        words.prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    let keys = prop::sample::select(
        super::keys::SERVICE
            .followed
            .iter()
            .chain(super::keys::BUILD.followed)
            .chain(super::keys::SERVICE.silent)
            .chain(&[
                "services",
                "<<",
                "test",
                "interval",
                "retries",
                "type",
                "source",
                "target",
                "path",
                "aliases",
                "condition",
                "x-a",
                "app",
                "db",
                "resources",
                "~/",
            ])
            .copied()
            .collect::<Vec<_>>(),
    );
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((keys.clone(), inner), 0..6).prop_map(|pairs| Value::Object(
                pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
            )),
        ]
    })
}

proptest! {
    #[test]
    fn no_document_panics(app in value(), db in value(), rest in value()) {
        let document = json!({"services": {"app": app, "db": db, "more": rest.clone()}, "volumes": rest.clone(), "networks": rest});
        for beside in [Beside::Needed, Beside::All] {
            let _ = super::super::compose::read(&document, "a/c.yaml", Some("app"), beside, &NOTHING).map_err(|error| {
                assert!(!error.problems.is_empty());
                error.to_string()
            });
        }
    }

    #[test]
    fn no_text_panics(text in "[$\\{\\}:?+\\-A-Z \"'\\\\#=\n]{0,60}") {
        let mut found = super::Findings::default();
        let _ = super::interpolate::replaced(&text, 0, &mut found);
        let _ = super::values::env_file(&mut found, &super::At::default(), &text);
        let _ = super::values::seconds(&text);
        let _ = super::values::bytes(&text);
    }
}
