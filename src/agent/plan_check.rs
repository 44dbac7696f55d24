//! Whether what the planner submitted is a plan that can be carried out. All faults come back at once.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::core::plan::{CheckKind, FileAction, Plan};

/// The most steps of a plan.
pub const STEPS_MAX: usize = 12;
/// The most criteria of a plan.
pub const CRITERIA_MAX: usize = 30;
/// The most files of a plan.
pub const FILES_MAX: usize = 100;
/// The longest text of a plan, in bytes; a title has its own.
const TEXT_MAX: usize = 8 * 1024;
/// The longest title, in characters: it becomes the subject of a commit.
const TITLE_MAX: usize = 100;
/// The most faults that are listed.
const FAULTS_MAX: usize = 20;

/// What a plan is checked against.
pub trait Facts: Send + Sync {
    /// Whether the path is a file at the base commit.
    fn is_file(&self, path: &str) -> bool;
    /// Whether the path is a folder at the base commit.
    fn is_folder(&self, path: &str) -> bool;
    /// The names of the repository's checks.
    fn checks(&self) -> Vec<String>;
}

/// Reads a plan out of a tool call's arguments, or lists everything that is wrong with it.
pub fn read_plan(arguments: &Value, facts: &dyn Facts) -> Result<Plan, Vec<String>> {
    let plan: Plan = serde_json::from_value(arguments.clone())
        .map_err(|error| vec![format!("the arguments do not fit the schema: {error}")])?;
    let mut faults = Vec::new();
    texts(&plan, &mut faults);
    steps(&plan, facts, &mut faults);
    criteria(&plan, facts, &mut faults);
    for glob in &plan.tests_may_change {
        if globset::Glob::new(glob).is_err() {
            faults.push(format!("tests_may_change: `{glob}` is not a glob"));
        } else if glob.trim_matches(['*', '/', '.']).is_empty() {
            faults
                .push(format!("tests_may_change: `{glob}` would unprotect every test; name the files or their folder"));
        }
    }
    faults.truncate(FAULTS_MAX);
    if faults.is_empty() { Ok(plan) } else { Err(faults) }
}

fn texts(plan: &Plan, faults: &mut Vec<String>) {
    let title = plan.title.trim();
    if title.is_empty() || title.contains('\n') || title.chars().count() > TITLE_MAX {
        faults.push(format!("title: one line of 1 to {TITLE_MAX} characters is needed"));
    }
    if plan.summary.trim().is_empty() {
        faults.push("summary: it is empty".to_owned());
    }
    let lists = [
        ("assumptions", &plan.assumptions),
        ("questions", &plan.questions),
        ("out_of_scope", &plan.out_of_scope),
        ("risks", &plan.risks),
        ("tests_may_change", &plan.tests_may_change),
    ];
    for (name, list) in lists {
        if list.len() > CRITERIA_MAX {
            faults.push(format!("{name}: at most {CRITERIA_MAX} entries"));
        }
        if list.iter().any(|text| text.len() > TEXT_MAX) {
            faults.push(format!("{name}: an entry is longer than {TEXT_MAX} bytes"));
        }
    }
    let long = plan.steps.iter().any(|step| step.intent.len() > TEXT_MAX || step.title.len() > TEXT_MAX);
    if plan.summary.len() > TEXT_MAX || long {
        faults.push(format!("summary, step titles and intents: at most {TEXT_MAX} bytes each"));
    }
}

fn steps(plan: &Plan, facts: &dyn Facts, faults: &mut Vec<String>) {
    if plan.steps.is_empty() || plan.steps.len() > STEPS_MAX {
        faults.push(format!("steps: 1 to {STEPS_MAX} are needed, {} were given", plan.steps.len()));
    }
    let mut ids = BTreeSet::new();
    for step in &plan.steps {
        if !is_id(&step.id) {
            faults.push(format!("steps: `{}` is not an id like `s1`", step.id));
        }
        if !ids.insert(step.id.as_str()) {
            faults.push(format!("steps: two have the id `{}`", step.id));
        }
        if step.title.trim().is_empty() || step.intent.trim().is_empty() {
            faults.push(format!("{}: title and intent must not be empty", step.id));
        }
    }
    for step in &plan.steps {
        for before in &step.depends_on {
            if !ids.contains(before.as_str()) {
                faults.push(format!("{}.depends_on: there is no step `{before}`", step.id));
            }
        }
        for verify in &step.verify {
            known_check(&format!("{}.verify", step.id), &verify.check, facts, faults);
        }
    }
    if has_cycle(plan) {
        faults.push("steps: `depends_on` forms a cycle".to_owned());
    }
    files(plan, facts, faults);
}

fn files(plan: &Plan, facts: &dyn Facts, faults: &mut Vec<String>) {
    let all: Vec<_> = plan.steps.iter().flat_map(|step| step.files.iter().map(move |file| (&step.id, file))).collect();
    if all.len() > FILES_MAX {
        faults.push(format!("files: at most {FILES_MAX} in all, {} were given", all.len()));
    }
    // A later step may modify what an earlier one creates, so existence follows the order of the steps.
    let mut changed: BTreeMap<&str, bool> = BTreeMap::new();
    for (id, file) in all {
        let path = file.path.as_str();
        if !is_relative(path) {
            faults.push(format!("{id}.files: `{path}` is not a path inside the repository"));
            continue;
        }
        let exists = changed.get(path).copied().unwrap_or_else(|| facts.is_file(path));
        match file.action {
            FileAction::Create if exists => faults.push(format!("{id}.files: `{path}` exists already; use `modify`")),
            FileAction::Create if facts.is_folder(path) => faults.push(format!("{id}.files: `{path}` is a folder")),
            FileAction::Modify if !exists => faults.push(format!("{id}.files: `{path}` does not exist; use `create`")),
            FileAction::Delete if !exists => faults.push(format!("{id}.files: `{path}` does not exist")),
            _ => {}
        }
        changed.insert(path, file.action != FileAction::Delete);
    }
}

fn criteria(plan: &Plan, facts: &dyn Facts, faults: &mut Vec<String>) {
    if plan.criteria.is_empty() || plan.criteria.len() > CRITERIA_MAX {
        faults.push(format!("criteria: 1 to {CRITERIA_MAX} are needed, {} were given", plan.criteria.len()));
    }
    let mut ids = BTreeSet::new();
    let mut machine = false;
    for criterion in &plan.criteria {
        if !is_id(&criterion.id) || !ids.insert(criterion.id.as_str()) {
            faults.push(format!("criteria: `{}` is not a unique id like `c1`", criterion.id));
        }
        if criterion.text.trim().is_empty() || criterion.text.len() > TEXT_MAX {
            faults.push(format!("{}: its text must have 1 to {TEXT_MAX} bytes", criterion.id));
        }
        if matches!(criterion.check.kind, CheckKind::Test | CheckKind::Command) {
            match &criterion.check.reference {
                Some(name) => {
                    machine = true;
                    known_check(&format!("{}.check.ref", criterion.id), name, facts, faults);
                }
                None => faults.push(format!("{}.check: `ref` must name a check of the repository", criterion.id)),
            }
        }
    }
    // Without any check in the configuration no plan could meet this; the run then says that nothing is tested.
    if !machine && !facts.checks().is_empty() {
        faults.push(format!(
            "criteria: at least one must be checkable by a machine (`kind: test` with `ref` one of: {})",
            facts.checks().join(", ")
        ));
    }
}

fn known_check(place: &str, name: &str, facts: &dyn Facts, faults: &mut Vec<String>) {
    let known = facts.checks();
    if !known.iter().any(|check| check == name) {
        faults.push(format!("{place}: `{name}` is not a check of the repository; known: {}", known.join(", ")));
    }
}

fn is_id(text: &str) -> bool {
    (1..=16).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// Plain relative path with `/`, no part that is empty, `.`, `..` or any spelling of `.git`.
fn is_relative(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 1024
        && !path.contains(['\\', '\0', '\n'])
        && path.split('/').all(|part| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && !part.trim_end_matches(['.', ' ']).eq_ignore_ascii_case(".git")
        })
}

fn has_cycle(plan: &Plan) -> bool {
    let mut left: Vec<_> = plan.steps.iter().collect();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    loop {
        let before = left.len();
        left.retain(|step| {
            let known = |id: &String| plan.steps.iter().any(|other| other.id == *id);
            let free = step.depends_on.iter().filter(|id| known(id)).all(|id| done.contains(id.as_str()));
            if free {
                done.insert(&step.id);
            }
            !free
        });
        if left.is_empty() || left.len() == before {
            return !left.is_empty();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Repo;

    impl Facts for Repo {
        fn is_file(&self, path: &str) -> bool {
            ["src/a.rs", "tests/a.rs"].contains(&path)
        }
        fn is_folder(&self, path: &str) -> bool {
            ["src", "tests"].contains(&path)
        }
        fn checks(&self) -> Vec<String> {
            vec!["test".to_owned(), "lint".to_owned()]
        }
    }

    fn good() -> Value {
        json!({
            "title": "Validate stock", "summary": "Sales check stock.",
            "steps": [{"id": "s1", "title": "t", "intent": "i",
                       "files": [{"path": "src/a.rs", "action": "modify", "why": "w"},
                                 {"path": "src/b.rs", "action": "create", "why": "w"}],
                       "verify": [{"check": "test"}]},
                      {"id": "s2", "title": "t", "intent": "i", "depends_on": ["s1"],
                       "files": [{"path": "src/b.rs", "action": "modify", "why": "w"}]}],
            "criteria": [{"id": "c1", "text": "tests pass", "check": {"kind": "test", "ref": "test"}}],
            "tests_may_change": ["tests/stock*.rs"],
        })
    }

    fn faults(change: impl FnOnce(&mut Value)) -> String {
        let mut plan = good();
        change(&mut plan);
        read_plan(&plan, &Repo).unwrap_err().join("\n")
    }

    #[test]
    fn a_good_plan_passes_and_later_steps_may_use_new_files() {
        let plan = read_plan(&good(), &Repo).unwrap();
        assert_eq!(plan.steps.len(), 2);
    }

    #[test]
    fn every_fault_is_named() {
        for (change, wanted) in [
            ((|p| p["steps"][0]["files"][0]["path"] = json!("../x")) as fn(&mut Value), "not a path inside"),
            (|p| p["steps"][0]["files"][0]["path"] = json!("a/.GIT/config"), "not a path inside"),
            (|p| p["steps"][0]["files"][0]["path"] = json!("src/none.rs"), "does not exist"),
            (|p| p["steps"][0]["files"][1]["path"] = json!("tests/a.rs"), "exists already"),
            (|p| p["steps"][0]["files"][1]["path"] = json!("src"), "is a folder"),
            (|p| p["steps"][0]["verify"][0]["check"] = json!("rm -rf /"), "is not a check"),
            (|p| p["steps"][0]["depends_on"] = json!(["s2"]), "cycle"),
            (|p| p["steps"][0]["depends_on"] = json!(["s9"]), "no step `s9`"),
            (|p| p["steps"][1]["id"] = json!("s1"), "two have the id"),
            (|p| p["steps"] = json!([]), "1 to 12"),
            (|p| p["criteria"][0]["check"] = json!({"kind": "manual"}), "checkable by a machine"),
            (|p| p["criteria"][0]["check"]["ref"] = json!("nope"), "`nope` is not a check"),
            (|p| p["title"] = json!("a\nb"), "title"),
            (|p| p["tests_may_change"] = json!(["**/*"]), "would unprotect every test"),
            (|p| p["extra"] = json!(1), "do not fit the schema"),
        ] {
            let found = faults(change);
            assert!(found.contains(wanted), "wanted {wanted:?} in {found:?}");
        }
    }

    #[test]
    fn all_faults_come_at_once() {
        let found = faults(|plan| {
            plan["title"] = json!("");
            plan["criteria"] = json!([]);
            plan["steps"][0]["files"][0]["path"] = json!("/etc/passwd");
        });
        assert!(found.lines().count() >= 3, "{found}");
    }
}
