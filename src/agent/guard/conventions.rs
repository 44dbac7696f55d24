//! Which paths are tests, configuration, lock files, CI, git's and agents' files, by the conventions of each language.
//!
//! Names are compared in lower case: on some file systems `MAKEFILE` is `Makefile`.

use std::sync::LazyLock;

use regex::Regex;

use crate::agent::files::is_git_name;

/// What a path configures, wherever it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Tests or the build.
    Config,
    /// Which versions of dependencies are used.
    Lock,
    /// What runs after a push, or on a commit.
    Ci,
    /// Git itself.
    Git,
    /// What is committed.
    Ignore,
    /// Agents and editors.
    Agent,
}

/// Whether a path is a test, or data of tests, by convention.
pub fn is_test(path: &str) -> bool {
    static FILE: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(?x)
            ^(?: test_.*\.(?:py|c|cc|cpp|sh|rb|php|exs?)
               | .*_tests?\.(?:py|go|rs|rb|c|cc|cpp|cxx|sh|exs?|dart|php|lua)
               | .*_unittest\.(?:cc|cpp) | .*_spec\.(?:rb|lua|cr)
               | .*[.-](?:test|tests|spec|cy|e2e)\.[cm]?[jt]sx? | .*\.(?:test|spec)\.(?:vue|svelte|py)
               | tests?\.(?:py|rs|js|ts|mjs) | .*\.bats | .*\.snap
            )$",
        )
        .expect("a fixed pattern")
    });
    static CAPITAL: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^(?:.+(?:Tests?|TestCase|IT|Spec)|Test[A-Z].*)\.(?:java|kt|kts|cs|scala|groovy|php|swift|fs)$")
            .expect("a fixed pattern")
    });
    let (folders, name) = split(path);
    let lower = name.to_ascii_lowercase();
    let prose = [".md", ".rst", ".adoc"].iter().any(|end| lower.ends_with(end));
    let in_tests = folders.iter().any(|folder| match folder.to_ascii_lowercase().as_str() {
        "tests" | "test" | "__tests__" | "__snapshots__" | "testdata" | "test_data" | "__fixtures__" => true,
        "spec" | "specs" | "e2e" | "cypress" => !prose,
        other => other.ends_with(".tests") || other.ends_with(".test"),
    });
    in_tests || FILE.is_match(&lower) || CAPITAL.is_match(name)
}

/// What a path configures; tests are another matter.
pub fn sort(path: &str) -> Option<Sort> {
    let lower = path.to_ascii_lowercase();
    let (folders, name) = split(&lower);
    let in_folder = |names: &[&str]| folders.iter().any(|folder| names.contains(folder));
    if lower.split('/').any(is_git_name) {
        return Some(Sort::Git);
    }
    let ci = [
        ".github",
        ".gitlab",
        ".circleci",
        ".buildkite",
        ".ci",
        ".teamcity",
        ".forgejo",
        ".gitea",
        ".husky",
        ".woodpecker",
        ".githooks",
    ];
    let ci_names = [
        ".travis.yml",
        "bitbucket-pipelines.yml",
        ".drone.yml",
        "appveyor.yml",
        ".appveyor.yml",
        ".woodpecker.yml",
        ".woodpecker.yaml",
        ".pre-commit-config.yaml",
        "lefthook.yml",
        ".lefthook.yml",
        "cloudbuild.yaml",
        ".cirrus.yml",
    ];
    if in_folder(&ci)
        || ci_names.contains(&name)
        || [".gitlab-ci", "azure-pipelines", "jenkinsfile"].iter().any(|start| name.starts_with(start))
    {
        return Some(Sort::Ci);
    }
    if name == ".gitignore" {
        return Some(Sort::Ignore);
    }
    if name.starts_with(".git") && name != ".gitkeep" {
        return Some(Sort::Git);
    }
    let agents = [
        ".cursor",
        ".claude",
        ".codex",
        ".gemini",
        ".roo",
        ".windsurf",
        ".vscode",
        ".idea",
        ".devo",
        ".kiro",
        ".junie",
        ".zed",
    ];
    let agent_names = [
        "agents.md",
        "claude.md",
        "claude.local.md",
        "gemini.md",
        ".cursorrules",
        ".windsurfrules",
        ".clinerules",
        ".mcp.json",
        "mcp.json",
        "devo.yaml",
        "devo.yml",
        ".devo-home",
        ".rules",
    ];
    if in_folder(&agents) || agent_names.contains(&name) || name.starts_with(".aider") {
        return Some(Sort::Agent);
    }
    let locks = [
        "cargo.lock",
        "package-lock.json",
        "npm-shrinkwrap.json",
        "yarn.lock",
        "pnpm-lock.yaml",
        "bun.lock",
        "bun.lockb",
        "poetry.lock",
        "uv.lock",
        "pdm.lock",
        "pipfile.lock",
        "gemfile.lock",
        "composer.lock",
        "go.sum",
        "go.work.sum",
        "mix.lock",
        "packages.lock.json",
        "gradle.lockfile",
        "flake.lock",
        "deno.lock",
        "pubspec.lock",
    ];
    if locks.contains(&name) {
        return Some(Sort::Lock);
    }
    (is_manifest(path) || is_test_or_build_config(name) || in_folder(&[".cargo", ".devcontainer", ".mvn", ".yarn"]))
        .then_some(Sort::Config)
}

/// Whether a path is a manifest, which a lock file follows.
pub fn is_manifest(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let (_, name) = split(&lower);
    let names = [
        "cargo.toml",
        "package.json",
        "pyproject.toml",
        "setup.py",
        "setup.cfg",
        "pipfile",
        "gemfile",
        "composer.json",
        "go.mod",
        "go.work",
        "mix.exs",
        "pom.xml",
        "build.gradle",
        "build.gradle.kts",
        "settings.gradle",
        "settings.gradle.kts",
        "deno.json",
        "deno.jsonc",
        "flake.nix",
        "pubspec.yaml",
        "pnpm-workspace.yaml",
    ];
    let ends = [".csproj", ".fsproj", ".vbproj", ".sln", ".gemspec", ".cabal"];
    names.contains(&name)
        || ends.iter().any(|end| name.ends_with(end))
        || (name.starts_with("requirements") && (name.ends_with(".txt") || name.ends_with(".in")))
}

/// A name in lower case that configures tests or the build, or would take the place of a test framework.
fn is_test_or_build_config(name: &str) -> bool {
    let names = [
        "conftest.py",
        "pytest.ini",
        ".pytest.ini",
        "tox.ini",
        "noxfile.py",
        ".coveragerc",
        "sitecustomize.py",
        "usercustomize.py",
        "pytest.py",
        "unittest.py",
        "build.rs",
        "rust-toolchain",
        "rust-toolchain.toml",
        "clippy.toml",
        ".clippy.toml",
        "rustfmt.toml",
        ".rustfmt.toml",
        "nextest.toml",
        "makefile",
        "gnumakefile",
        "justfile",
        ".justfile",
        "taskfile.yml",
        "taskfile.yaml",
        "cmakelists.txt",
        "meson.build",
        "build.bazel",
        "workspace.bazel",
        "module.bazel",
        ".bazelrc",
        "gradle.properties",
        "gradlew",
        "gradlew.bat",
        "mvnw",
        "mvnw.cmd",
        "phpunit.xml",
        "phpunit.xml.dist",
        ".rspec",
        "rakefile",
        ".npmrc",
        ".yarnrc",
        ".yarnrc.yml",
        ".nvmrc",
        ".node-version",
        ".python-version",
        ".ruby-version",
        ".tool-versions",
        ".envrc",
        "directory.build.props",
        "directory.build.targets",
        "nuget.config",
        "global.json",
        "ctestconfig.cmake",
        "shell.nix",
        "default.nix",
        "procfile",
    ];
    let with_extension = [
        "jest.config",
        "jest.setup",
        "vitest.config",
        "vitest.setup",
        "vitest.workspace",
        "vite.config",
        "babel.config",
        "karma.conf",
        "playwright.config",
        "cypress.config",
        "webpack.config",
        "rollup.config",
        "ava.config",
        "wdio.conf",
        "tsconfig",
        "jsconfig",
        ".mocharc",
        ".nycrc",
        ".babelrc",
        ".swcrc",
        ".taprc",
        "dockerfile",
    ];
    let ends = [".pth", ".mk", ".cmake", ".runsettings", ".dockerfile"];
    let compose = ["compose.", "docker-compose."].iter().any(|start| name.starts_with(start));
    names.contains(&name)
        || with_extension
            .iter()
            .any(|start| name.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
        || (compose && (name.ends_with(".yml") || name.ends_with(".yaml")))
        || ends.iter().any(|end| name.ends_with(end))
}

fn split(path: &str) -> (Vec<&str>, &str) {
    let mut parts: Vec<&str> = path.split('/').collect();
    let name = parts.pop().unwrap_or("");
    (parts, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_of_each_language() {
        for path in [
            "tests/test_a.py",
            "a/test_b.py",
            "a/b_test.py",
            "pkg/x_test.go",
            "src/a.spec.ts",
            "src/a.test.jsx",
            "web/__tests__/a.js",
            "src/test/java/A.java",
            "src/ATest.java",
            "FooTests.cs",
            "TestThing.kt",
            "spec/a_spec.rb",
            "test/a_test.exs",
            "src/tests.rs",
            "src/a/tests.rs",
            "src/price_tests.rs",
            "x.bats",
            "a_unittest.cc",
            "Shop.Tests/Price.cs",
            "ui/__snapshots__/a.snap",
            "tests/fixtures/a.json",
            "tests/README.md",
            "lib/PriceTest.php",
            "a.cy.ts",
        ] {
            assert!(is_test(path), "{path}");
        }
        for path in [
            "src/a.py",
            "src/contest.py",
            "src/latest.ts",
            "attest.go",
            "docs/spec/a.md",
            "src/testing.rs",
            "Latest.java",
            "src/protest/x.py",
            "src/inspect.js",
        ] {
            assert!(!is_test(path), "{path}");
        }
    }

    #[test]
    fn configuration() {
        for path in [
            "a/setup.cfg",
            "requirements-dev.txt",
            "tsconfig.base.json",
            "Dockerfile",
            "Dockerfile.dev",
            "docker-compose.yml",
            "compose.yaml",
            "x/App.csproj",
            ".mocharc.json",
            "rules.mk",
            "evil.pth",
        ] {
            assert_eq!(sort(path), Some(Sort::Config), "{path}");
        }
        for path in [
            "src/compose.py",
            "src/build/x.rs",
            "requirements.md",
            "src/vite.ts",
            "tsconfig_reader.py",
            "src/setup.rs",
            "Makefile.md/x",
        ] {
            assert_eq!(sort(path), None, "{path}");
        }
        assert_eq!(sort("a/.GIT/config"), Some(Sort::Git));
    }
}
