//! `test`: runs a check of the repository on a clean checkout of exactly the tree that will be committed, out of the
//! executor's reach.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::blocking::blocking;
use super::commands::run_command;
use super::execute_loop::SNAPSHOT;
use super::{Context, Kind, Outcome, Step, Turn, build};
use crate::agent::digest::{Report, Verdict, digest};
use crate::agent::guard::{Guard, some_of};
use crate::core::failure::Failure;
use crate::core::graph::Authority;
use crate::sandboxes::WORKSPACE;
use crate::workspace::{Error, TreeId};

/// `test` in the list.
pub const KIND: Kind = Kind {
    name: "test",
    summary: "runs a check on a clean checkout of the tree that will be committed",
    schema: || schemars::schema_for!(TestStep),
    templates: &[],
    authority: Authority::Free,
    exclusive: true,
    build: build::<TestStep>,
};

/// A check may take this long, in seconds, unless the step's `timeout` says less.
const CHECK_S: u64 = 2 * 3600;

/// The step's own keys.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TestStep {
    /// A name from the repository's `checks`; `test` if not given.
    #[serde(default)]
    check: Option<String>,
}

impl TestStep {
    fn check(&self) -> &str {
        self.check.as_deref().unwrap_or("test")
    }
}

/// The check that a `test` step with these keys runs.
pub fn check_of(spec: &serde_json::Value) -> String {
    spec["check"].as_str().unwrap_or("test").to_owned()
}

/// The failure of a check that is not configured.
pub fn no_check(repo: &str, check: &str) -> Failure {
    Failure::terminal("no_check", format!("the repository `{repo}` has no check `{check}`, so nothing can be tested"))
        .hint(format!("add it in devo.yaml: `repos: {{{repo}: {{checks: {{{check}: COMMAND}}}}}}`"))
}

#[async_trait]
impl Step for TestStep {
    async fn run(&self, cx: &Context, turn: Turn) -> Outcome {
        self.test(cx, &turn).await.unwrap_or_else(Outcome::Fail)
    }
}

impl TestStep {
    async fn test(&self, cx: &Context, turn: &Turn) -> Result<Outcome, Failure> {
        let repo = cx.repo()?;
        let name = self.check().to_owned();
        let command = repo.check(&name).map(str::to_owned).ok_or_else(|| no_check(&repo.key, &name))?;
        let place = cx.run_dir.join("checks").join(cx.step.as_str());
        let (run_dir, dest) = (cx.run_dir.clone(), place.clone());
        let (tree, changed, base) = cx
            .git(move |repo, cancelled| {
                let worktree = repo.worktree(&run_dir, cancelled)?;
                let tree = worktree.snapshot(SNAPSHOT)?.tree;
                let base = worktree.tree_of(worktree.base())?;
                let changed = worktree.changed_paths(base, tree)?;
                let paths: Vec<String> = worktree.view(base)?.files()?.iter().map(|file| file.path.clone()).collect();
                worktree.checkout_clean(tree, &dest)?;
                Ok::<(TreeId, Vec<String>, Vec<String>), Error>((tree, changed, paths))
            })
            .await?;
        if let Some(plan) = &cx.plan {
            let guard = Guard::new(base, &plan.plan);
            let protected: Vec<String> =
                changed.iter().filter_map(|path| guard.protects(path).map(|why| format!("{path}: {why}"))).collect();
            if !protected.is_empty() {
                let list = some_of(&protected, "\n");
                return Err(Failure::terminal(
                    "guard",
                    format!("protected files differ from the base commit:\n{list}"),
                )
                .feedback(format!("Protected files were changed. Put them back:\n{list}"))
                .hint("revise the plan so that it names the files, if the task needs them"));
            }
        }
        let ran = run_command(cx, turn, &command, &place, ".", Vec::new(), CHECK_S).await?;
        // The checkout holds build output by now; the tree itself is kept by its snapshot.
        if let Err(error) = std::fs::remove_dir_all(&place) {
            tracing::debug!(%error, "cannot remove a checkout");
        }
        let (said, code) = (ran.said, ran.code);
        let (report, digest) = blocking(&cx.cancel, move |_| {
            let report = Report::read(&ran.text, code, WORKSPACE);
            let digest = digest(&report, None, &ran.text);
            (report, digest)
        })
        .await?;
        let verdict = report.verdict();
        cx.note(format!(
            "{name}: {said} ({} passed, {} failed, {} skipped)",
            report.passed, report.failed, report.skipped
        ));
        if !verdict.is_green() {
            return Err(Failure::retryable("tests_failed", format!("the check `{name}` is red, {said}:\n{digest}"))
                .feedback(format!("The check `{name}` was run on a clean checkout and is red:\n{digest}"))
                .hint("`devo logs RUN` shows the whole output; then `devo retry RUN`, or submit a more exact task"));
        }
        if verdict == Verdict::GreenWeak {
            cx.note("no test was recognised in the output: that the command ended well is all that is known");
        }
        Ok(Outcome::Done(json!({
            "tree": tree.to_string(), "check": name, "verdict": verdict, "exit": report.exit, "passed": report.passed,
            "failed": report.failed, "skipped": report.skipped,
        })))
    }
}
