//! Keeps ARCHITECTURE.md's table true: who may know whom, and which heavy dependency has which owner.

use std::path::{Path, PathBuf};

/// Module → what it may use of ours. `tests` inside a file count too: a test that reaches across is a sign.
const MAY_USE: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("secrets", &[]),
    ("yaml", &["core"]),
    ("templates", &["core", "secrets"]),
    ("journal", &["core", "secrets"]),
    ("providers", &["core", "secrets", "yaml"]),
    ("sandboxes", &["core", "secrets"]),
    ("workspace", &["core", "secrets"]),
    ("prompts", &["core", "secrets", "templates"]),
    ("agent", &["core", "secrets", "providers", "sandboxes", "workspace", "prompts", "templates"]),
    ("steps", &["core", "secrets", "yaml", "templates", "providers", "sandboxes", "workspace", "prompts", "agent"]),
    ("pipeline", &["core", "secrets", "yaml", "templates", "prompts", "steps"]),
    (
        "engine",
        &[
            "core",
            "secrets",
            "templates",
            "journal",
            "steps",
            "pipeline",
            "sandboxes",
            "workspace",
            "prompts",
            "providers",
        ],
    ),
];

/// Dependency → the module (a path prefix under src/) that alone may name it.
const OWNERS: &[(&str, &str)] = &[
    ("petgraph", "core/graph.rs"),
    ("rusqlite", "journal/sqlite"),
    ("git2", "workspace"),
    ("reqwest", "providers"),
    // The bot's token is a part of every address, so its client is made where no error can show one.
    ("reqwest", "frontends/telegram/api.rs"),
    // A POST of ours, to the one address of devo.yaml.
    ("reqwest", "frontends/webhook/post.rs"),
    ("lettre", "frontends/mail/smtp.rs"),
    ("clap", "frontends/cli"),
    ("indicatif", "frontends/cli"),
    ("minijinja", "templates"),
    ("bollard", "sandboxes/docker"),
    ("axum", "frontends/web"),
    ("tower_http", "frontends/web"),
    ("argon2", "frontends/web"),
];

/// What the pure core must not name.
const IMPURE: &[&str] = &[
    "tokio",
    "std::fs",
    "std::env",
    "std::net",
    "std::process",
    "std::thread",
    "SystemTime",
    "Instant::now",
    "fastrand",
    "async fn",
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("demo/tienda") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"))
}

#[test]
fn every_module_knows_only_what_is_below_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 40, "the sources were found");
    let mut wrong = Vec::new();
    for file in files {
        let name = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        let module = name.split('/').next().unwrap().trim_end_matches(".rs");
        if let Some((_, allowed)) = MAY_USE.iter().find(|(known, _)| *known == module) {
            for line in code_lines(&text) {
                for used in line.match_indices("crate::").map(|(at, _)| &line[at + "crate::".len()..]) {
                    let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    let ours = MAY_USE.iter().any(|(known, _)| *known == used)
                        || ["frontends", "app", "config", "error"].contains(&used.as_str());
                    if ours && used != module && !allowed.contains(&used.as_str()) {
                        wrong.push(format!("{name}: {module} must not know {used}: {line}"));
                    }
                }
            }
        }
        for (dependency, owner) in OWNERS {
            let named = code_lines(&text).any(|line| line.contains(&format!("{dependency}::")));
            let owned = OWNERS.iter().any(|(other, owner)| other == dependency && name.starts_with(owner));
            if named && !owned {
                wrong.push(format!("{name}: only {owner} may name {dependency}"));
            }
        }
        if module == "core" {
            let product = text.split("#[cfg(test)]").next().unwrap_or_default();
            for line in code_lines(product).filter(|_| !name.starts_with("core/properties")) {
                let impure = IMPURE.iter().find(|word| line.contains(**word));
                if let Some(word) = impure {
                    wrong.push(format!("{name}: the core is pure, and this names {word}: {line}"));
                }
            }
        }
        // Tests that stand in a file of their own belong to the file above them.
        if !text.starts_with("//!") && !name.ends_with("tests.rs") {
            wrong.push(format!("{name}: a file opens with //! and what it is"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
