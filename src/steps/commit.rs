//! `commit`: makes the commit out of exactly the tree that was tested. Its date and parent are recorded before it is made, so
//! its id is fixed and a second try finds the first one's commit. A run that went back and changed more commits again, on top
//! of what it committed before: what may have been pushed already is never replaced.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::repo::change;
use super::{Context, Kind, Outcome, Step, Turn, build};
use crate::core::failure::Failure;
use crate::core::graph::Authority;
use crate::core::plan::PlanRecord;
use crate::core::time::Timestamp;
use crate::secrets::looks_like_a_key;
use crate::workspace::{CommitId, Error, NewCommit, TreeId};

/// `commit` in the list.
pub const KIND: Kind = Kind {
    name: "commit",
    summary: "commits exactly the tree that was tested, with trailers Run-Id and Plan-Hash",
    schema: || schemars::schema_for!(Commit),
    templates: &[],
    authority: Authority::Acts,
    exclusive: true,
    build: build::<Commit>,
};

/// The longest subject, in characters: what `git log --oneline` and forges show whole.
const SUBJECT_MAX: usize = 72;

/// The trailer by which a run finds its own commits.
const RUN_ID: &str = "Run-Id";

/// Of the places that a message names.
const PLACES_MAX: usize = 10;

/// The step's own keys.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// The conventional commit's type; `feat` if not given.
    #[serde(default)]
    convention: Option<Convention>,
}

/// Types of conventional commits.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Convention {
    Feat,
    Fix,
    Docs,
    Refactor,
    Test,
    Chore,
    Perf,
    Build,
    Ci,
    Style,
}

#[async_trait]
impl Step for Commit {
    async fn run(&self, cx: &Context, turn: Turn) -> Outcome {
        let result = if turn.carry.is_null() { self.intend(cx).await } else { make(cx, &turn.carry).await };
        result.unwrap_or_else(Outcome::Fail)
    }
}

impl Commit {
    /// First turn: what will be committed is fixed, and recorded with the turn's end.
    async fn intend(&self, cx: &Context) -> Result<Outcome, Failure> {
        let Some(plan) = &cx.plan else {
            return Err(Failure::terminal("no_plan", "there is no plan, so nothing says what the commit is"));
        };
        let tree = match cx.tree_id("test", "tree") {
            Ok(tree) => tree,
            Err(failure) => return Err(failure.hint("only a tested tree is committed: put a `test` step before it")),
        };
        let kind = self.convention.map_or("feat".to_owned(), |kind| format!("{kind:?}").to_lowercase());
        let message = message(&kind, plan, &cx.spec.task_id.to_string());
        if cx.equipment.masker.found_in(&message) {
            return Err(Failure::terminal("secret", "the commit's message holds a secret of this engine")
                .hint("revise the plan so that its text does not repeat it"));
        }
        no_secrets(cx, tree).await?;
        let parent = parent(cx, tree).await?;
        Ok(Outcome::Again(json!({
            "tree": tree.to_string(), "parent": parent.to_string(), "message": message, "date_ms": cx.now.0,
        })))
    }
}

/// What the next commit stands on: what this run committed last, else its base. A branch that somebody else moved is not
/// followed; the commit then says so.
async fn parent(cx: &Context, tree: TreeId) -> Result<CommitId, Failure> {
    let base = cx.commit_id("branch", "base_commit")?;
    let (run_dir, run) = (cx.run_dir.clone(), cx.spec.task_id.to_string());
    cx.git(move |repo, cancelled| {
        let worktree = repo.worktree(&run_dir, cancelled)?;
        // Also where an earlier commit would make taking everything back look like a change.
        if worktree.tree_of(base)? == tree {
            return Err(Error::NothingToCommit { parent: base.to_string() });
        }
        let own = worktree.find_commit_by_trailer(RUN_ID, &run)?;
        let head = worktree.head()?;
        Ok(if own == Some(head) { head } else { base })
    })
    .await
}

/// Refuses a change that brings a secret which this engine knows; says which lines look like a key of someone else.
async fn no_secrets(cx: &Context, tree: TreeId) -> Result<(), Failure> {
    let parent = cx.commit_id("branch", "base_commit")?;
    let (run_dir, masker) = (cx.run_dir.clone(), cx.equipment.masker.clone());
    let (known, alike) = cx
        .git(move |repo, cancelled| {
            let worktree = repo.worktree(&run_dir, cancelled)?;
            let (mut known, mut alike) = (Vec::new(), Vec::new());
            worktree.additions(worktree.tree_of(parent)?, tree, &mut |path, line, bytes| {
                let text = String::from_utf8_lossy(bytes);
                let place = if line == 0 { format!("the name {path}") } else { format!("{path}:{line}") };
                if masker.found_in(&text) {
                    known.push(place);
                } else if let Some(what) = looks_like_a_key(&text) {
                    alike.push(format!("{place} looks like {what}"));
                }
            })?;
            Ok::<_, Error>((known, alike))
        })
        .await?;
    for line in alike.iter().take(PLACES_MAX) {
        cx.note(format!("look before you merge: {line}"));
    }
    if known.is_empty() {
        return Ok(());
    }
    // The path itself may be what holds it.
    let places = cx.equipment.masker.mask(&known[..known.len().min(PLACES_MAX)].join(", "));
    let more = if known.len() > PLACES_MAX { format!(" and {} more", known.len() - PLACES_MAX) } else { String::new() };
    let editing =
        cx.outputs.iter().filter(|(_, produced)| produced.kind == "execute-loop").max_by_key(|(_, p)| p.place);
    let from = editing.map_or_else(|| "STEP".to_owned(), |(id, _)| id.to_string());
    Err(Failure::terminal("secret", format!("nothing is committed: a secret of this engine stands in {places}{more}"))
        .hint(format!("find out how it got there and renew it; `devo retry RUN --from {from}` makes the change anew")))
}

/// Second turn: makes it, or finds that it was made.
async fn make(cx: &Context, carry: &Value) -> Result<Outcome, Failure> {
    let text = |key: &str| carry[key].as_str().unwrap_or_default().to_owned();
    let (tree, message, date) = (text("tree"), text("message"), carry["date_ms"].as_i64().unwrap_or_default());
    let run_dir = cx.run_dir.clone();
    let run = cx.spec.task_id.to_string();
    let base = cx.commit_id("branch", "base_commit")?;
    // A version that made one commit per run recorded none.
    let parent = carry["parent"].as_str().map_or(Ok(base), str::parse).map_err(|error: Error| error.to_failure())?;
    let (commit, stat) = cx
        .git(move |repo, cancelled| {
            let worktree = repo.worktree(&run_dir, cancelled)?;
            let tree = tree.parse()?;
            let made = worktree.find_commit_by_trailer(RUN_ID, &run)?;
            let commit = match made {
                Some(commit) if worktree.tree_of(commit)? == tree => commit,
                _ => worktree.commit(&NewCommit {
                    tree,
                    parent,
                    message: &message,
                    author: &repo.author,
                    committer: &repo.author,
                    date: Timestamp(date),
                })?,
            };
            // Of all that the branch brings.
            let stat = worktree.diffstat(worktree.tree_of(base)?, tree)?;
            Ok::<_, Error>((commit, stat))
        })
        .await?;
    cx.note(format!("commit {} {}", &commit.to_string()[..12], stat.summary()));
    Ok(Outcome::Done(json!({"commit": commit.to_string(), "tree": text("tree"), "diffstat": change(&stat)})))
}

/// `type: subject`, the plan's summary, trailers.
fn message(kind: &str, plan: &PlanRecord, run: &str) -> String {
    let title = one_line(&plan.plan.title);
    let room = SUBJECT_MAX.saturating_sub(kind.len() + 2);
    let subject = if title.chars().count() > room {
        let cut: String = title.chars().take(room.saturating_sub(1)).collect();
        format!("{}…", cut.trim_end())
    } else {
        title
    };
    // A line of the summary that looks like a trailer must not become one: the body is followed by the trailers' own block.
    let body: String = plan.plan.summary.lines().map(|line| wrap(&one_line(line))).collect::<Vec<_>>().join("\n");
    format!("{kind}: {subject}\n\n{}\n\n{RUN_ID}: {run}\nPlan-Hash: {}\n", body.trim(), plan.hash)
}

fn one_line(text: &str) -> String {
    let clean: String = text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    clean.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn wrap(text: &str) -> String {
    let mut out = String::new();
    let mut width = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if width > 0 && width + 1 + length > SUBJECT_MAX {
            out.push('\n');
            width = 0;
        } else if width > 0 {
            out.push(' ');
            width += 1;
        }
        out.push_str(word);
        width += length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::plan::{Estimate, Plan};

    #[test]
    fn the_message_is_conventional_and_ends_in_its_own_trailers() {
        let plan = Plan {
            title: "Validar que una venta no deje el inventario por debajo de cero en ningún caso".to_owned(),
            summary: "Una línea larga que se parte porque ningún cuerpo de mensaje debe pasar de setenta y dos.\n\nRun-Id: forged"
                .to_owned(),
            steps: vec![],
            criteria: vec![],
            tests_may_change: vec![],
            assumptions: vec![],
            questions: vec![],
            out_of_scope: vec![],
            risks: vec![],
        };
        let plan = PlanRecord::new(plan, Estimate::default(), 1, "b".repeat(40), "sha256:p");
        let text = message("feat", &plan, "the-run");
        assert!(text.lines().all(|line| line.chars().count() <= 84), "{text}");
        assert!(text.starts_with("feat: Validar"));
        let trailers = text.trim_end().rsplit("\n\n").next().unwrap();
        assert_eq!(trailers, format!("Run-Id: the-run\nPlan-Hash: {}", plan.hash));
    }
}
