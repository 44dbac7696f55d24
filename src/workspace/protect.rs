//! Names of branches: which ones a run may have, and which ones are never pushed. Knows no repository.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::slug::slug;

/// The longest name, in bytes.
const LONGEST: usize = 100;
/// What the name of a run's branch starts with.
const PREFIX: &str = "task/";
/// Never pushed, whatever the configuration says.
const BUILT_IN: [&str; 6] = ["main", "master", "dev", "develop", "development", "release/*"];

/// The name of a run's branch: `[a-z0-9._/-]`, 100 bytes at most, and what `git check-ref-format` takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BranchName(String);

impl BranchName {
    /// `task/<short id>-<slug of the title>`. The short id is made of letters and digits, as run ids are.
    pub fn task(short_id: &str, title: &str) -> Result<Self> {
        let slug = slug(title);
        let slug = if slug.is_empty() { "task" } else { &slug };
        Self::parse(&format!("{PREFIX}{short_id}-{slug}"))
    }

    /// Checks a name; it is never repaired.
    pub fn parse(name: &str) -> Result<Self> {
        let refused = |why| Err(Error::BadBranch { name: name.chars().take(LONGEST).collect(), why });
        if name.is_empty() || name.len() > LONGEST {
            return refused("it has to have 1 to 100 bytes");
        }
        if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._/-".contains(&b)) {
            return refused("only a-z, 0-9, `.`, `_`, `/` and `-` are used");
        }
        for part in name.split('/') {
            if part.is_empty() || part.starts_with(['.', '-']) || part.ends_with('.') || part.ends_with(".lock") {
                return refused("a part of it is empty, starts with `.` or `-`, or ends in `.` or `.lock`");
            }
        }
        if name.contains("..") || name == "head" || ["refs/", "heads/"].iter().any(|start| name.starts_with(start)) {
            return refused("it could be taken for something else");
        }
        Ok(Self(name.to_owned()))
    }

    /// The name, without `refs/heads/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The whole ref.
    pub fn full(&self) -> String {
        format!("refs/heads/{}", self.0)
    }
}

impl std::fmt::Display for BranchName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for BranchName {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<BranchName> for String {
    fn from(name: BranchName) -> Self {
        name.0
    }
}

/// Which branches of a repository are never pushed.
#[derive(Debug, Clone)]
pub struct Protection {
    globs: GlobSet,
    patterns: Vec<String>,
}

impl Protection {
    /// The built-in list, the remote's default branch, and the configured globs, in which `*` also stands for `/`. Letter
    /// case never matters.
    pub fn new<'a>(default_branch: Option<&str>, configured: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut set = GlobSetBuilder::new();
        let mut patterns = Vec::new();
        let mut add = |pattern: &str, shown: &str| -> Result<()> {
            let bad =
                |error: globset::Error| Error::BadPattern { pattern: shown.to_owned(), why: error.kind().to_string() };
            set.add(GlobBuilder::new(pattern).case_insensitive(true).literal_separator(false).build().map_err(bad)?);
            patterns.push(shown.to_owned());
            Ok(())
        };
        for name in BUILT_IN {
            add(name, name)?;
        }
        if let Some(name) = default_branch {
            add(&globset::escape(name), name)?;
        }
        for pattern in configured {
            add(pattern.strip_prefix("refs/heads/").unwrap_or(pattern), pattern)?;
        }
        let globs = set
            .build()
            .map_err(|error| Error::BadPattern { pattern: patterns.join(", "), why: error.kind().to_string() })?;
        Ok(Self { globs, patterns })
    }

    /// The rule that protects the branch, if one does.
    pub fn rule(&self, branch: &str) -> Option<&str> {
        self.globs.matches(branch).first().map(|index| self.patterns[*index].as_str())
    }

    /// Takes the branch of a run as it is spelt, or refuses it: every spelling that is not a plain `task/…` name, and every
    /// name that a rule protects.
    pub fn admit(&self, branch: &str) -> Result<BranchName> {
        let refused = |why: String| Error::Protected { branch: branch.chars().take(LONGEST).collect(), why };
        let name = BranchName::parse(branch).map_err(|error| match error {
            Error::BadBranch { why, .. } => refused(why.to_owned()),
            other => other,
        })?;
        if let Some(rule) = self.rule(branch) {
            return Err(refused(format!("`{rule}` is protected")));
        }
        if !branch.starts_with(PREFIX) {
            return Err(refused(format!("the branch of a run starts with `{PREFIX}`")));
        }
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_gets_a_name_from_any_title() {
        let name = |title| BranchName::task("456789ab", title).unwrap().0;
        assert_eq!(name("Validar stock negativo en ventas"), "task/456789ab-validar-stock-negativo-en-ventas");
        assert_eq!(name("日本語"), "task/456789ab-task");
        assert_eq!(name("..lock"), "task/456789ab-lock");
        for bad in ["", "../x", "A", "x y", "--x"] {
            let name = BranchName::task(bad, "t");
            assert!(bad.is_empty() || name.is_err(), "{bad}: {name:?}");
        }
    }

    #[test]
    fn git_takes_every_name_that_is_taken_here() {
        for good in ["task/1-a", "task/a.b_c", "x"] {
            assert!(git2::Reference::is_valid_name(&BranchName::parse(good).unwrap().full()), "{good}");
        }
        for bad in [
            "", "-x", "a//b", "/a", "a/", "a/.b", "a.lock", "a.lock/b", "a..b", "a.", "A", "a b", "a~1", "a@{0}", "ñ",
            "head",
        ] {
            assert!(BranchName::parse(bad).is_err(), "{bad}");
        }
        assert!(BranchName::parse(&"a".repeat(101)).is_err());
    }

    #[test]
    fn protected_branches_and_their_odd_spellings_are_refused() {
        let protection = Protection::new(Some("Trunk[1]"), ["hotfix/*", "task/shared-*", "refs/heads/prod"]).unwrap();
        for bad in [
            "main",
            "master",
            "dev",
            "develop",
            "development",
            "MAIN",
            "Main",
            "mAsTeR",
            "refs/heads/main",
            "heads/main",
            "main/",
            "/main",
            "./main",
            "main/.",
            "task/../main",
            "main.lock",
            "ma\u{200b}in",
            "m\u{0430}in",
            "main\n",
            "main\0",
            " main",
            "main ",
            "+main",
            ":main",
            "main:main",
            "HEAD",
            "@",
            "release/1",
            "release/1/2",
            "RELEASE/1",
            "hotfix/x/y",
            "task/shared-x",
            "trunk[1]",
            "prod",
            "feature/x",
            "task",
            "task/",
            "refs/heads/task/x",
            "tags/x",
            "refs/tags/v1",
            "-main",
            "--all",
            "task/x:refs/heads/main",
            "task/x main",
        ] {
            assert!(matches!(protection.admit(bad), Err(Error::Protected { .. })), "{bad:?}");
        }
        assert_eq!(protection.admit("task/456789ab-stock").unwrap().as_str(), "task/456789ab-stock");
        assert_eq!(protection.rule("TRUNK[1]"), Some("Trunk[1]"));
        assert!(Protection::new(Some("task/456789ab-stock"), []).unwrap().admit("task/456789ab-stock").is_err());
        assert!(matches!(Protection::new(None, ["a{"]), Err(Error::BadPattern { .. })));
    }
}
