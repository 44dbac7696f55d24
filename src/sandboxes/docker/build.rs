//! An image built from files of the run's base commit: the same files give the same tag, and nothing is built twice.
//!
//! Knows nothing of git or of the workspace: what a command has written since is not in the context.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::BuildImageOptionsBuilder;
use bytes::Bytes;
use futures_util::StreamExt as _;
use globset::{GlobBuilder, GlobMatcher};
use sha2::{Digest as _, Sha256};

use super::super::{OutputSink, SandboxError};
use super::daemon::said;
use super::description::Build;
use super::image::{Source, SourceFile, find};

/// The daemon answers when the first step has something to say, which may take its time.
const ANSWER_WITHIN: Duration = Duration::from_secs(3600);
/// The label of what is built here.
const BUILT_LABEL: &str = "dev.devo.built";
/// Where a Dockerfile that lies outside of its context is put for the daemon.
const OUTSIDE: &str = ".devo.Dockerfile";
/// A date for all files: the same context is the same tar, and old archivers take it (they start at 1980).
const FILE_TIME: u64 = 1_577_836_800;
/// The last lines of a build that failed.
const LAST_LINES: usize = 20;

/// Builds the image unless it is there; gives its id.
pub(super) async fn ensure(
    docker: &Docker,
    build: &Build,
    source: &dyn Source,
    progress: &dyn OutputSink,
) -> Result<String, SandboxError> {
    let context = blocking(|| Context::read(build, source))?;
    let tag = format!("devo-build:{}", &context.hash(build)[..32]);
    if let Some(id) = find(docker, &tag).await? {
        return Ok(id);
    }
    progress.note(&format!("building `{}` ({} files)", build.dockerfile, context.files.len()));
    let args: HashMap<String, String> = build.args.clone().into_iter().collect();
    let labels = HashMap::from([(BUILT_LABEL.to_owned(), "1".to_owned())]);
    let options = BuildImageOptionsBuilder::default()
        .dockerfile(&context.dockerfile)
        .t(&tag)
        .rm(true)
        .forcerm(true)
        .buildargs(&args)
        .labels(&labels)
        .target(build.target.as_deref().unwrap_or_default())
        .build();
    let tar = context.tar().map_err(|error| failed(build, &error.to_string(), &[]))?;
    let docker = docker.clone().with_timeout(ANSWER_WITHIN);
    let mut steps = docker.build_image(options, None, Some(bollard::body_full(Bytes::from(tar))));
    let mut lines: Vec<String> = Vec::new();
    while let Some(step) = steps.next().await {
        let step = step.map_err(|error| failed(build, &said(&error), &lines))?;
        for line in step.stream.unwrap_or_default().lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            progress.note(line);
            lines.push(line.to_owned());
            if lines.len() > LAST_LINES {
                lines.remove(0);
            }
        }
    }
    find(&docker, &tag).await?.ok_or_else(|| failed(build, "the daemon built no image", &lines))
}

/// Work that blocks, without stopping the tasks beside this one where the runtime has threads for that.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}

fn failed(build: &Build, why: &str, lines: &[String]) -> SandboxError {
    let lines = lines.join("\n");
    let shown = if lines.is_empty() { String::new() } else { format!("\n{lines}") };
    SandboxError::Unavailable {
        what: format!("`{}` cannot be built: {why}{shown}", build.dockerfile),
        hint: format!(
            "try it by hand at the base commit: docker build -f {} {}",
            build.dockerfile,
            if build.context.is_empty() { "." } else { &build.context }
        ),
    }
}

/// What is sent to the daemon.
#[derive(Debug)]
struct Context {
    /// Sorted by path.
    files: Vec<SourceFile>,
    /// The Dockerfile's path in it.
    dockerfile: String,
}

impl Context {
    fn read(build: &Build, source: &dyn Source) -> Result<Self, SandboxError> {
        let cannot = |what: &str, why: String| SandboxError::Unavailable {
            what: format!("`{what}` cannot be read at the run's base commit: {why}"),
            hint: "check the paths under `sandbox` in devo.yaml; what is not committed is not seen".into(),
        };
        let folder = build.context.trim_matches('/').trim_start_matches("./");
        let folder = if folder == "." { "" } else { folder };
        let text = source.file(&build.dockerfile).map_err(|why| cannot(&build.dockerfile, why))?;
        let mut files = source.files(folder).map_err(|why| cannot(&build.context, why))?;
        let inside = match folder {
            "" => Some(build.dockerfile.trim_start_matches("./")),
            folder => build.dockerfile.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')),
        };
        let ignore = files.iter().find(|file| file.path == ".dockerignore");
        let ignore = Ignore::read(&ignore.map(|file| String::from_utf8_lossy(&file.content)).unwrap_or_default());
        files.retain(|file| Some(file.path.as_str()) == inside || !ignore.covers(&file.path));
        let dockerfile = match inside {
            Some(path) => path.to_owned(),
            None => {
                let file = SourceFile { path: OUTSIDE.to_owned(), content: text, executable: false, link: false };
                files.push(file);
                OUTSIDE.to_owned()
            }
        };
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { files, dockerfile })
    }

    /// The same for the same build of the same files; hexadecimal.
    fn hash(&self, build: &Build) -> String {
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        add(self.dockerfile.as_bytes());
        add(build.target.as_deref().unwrap_or_default().as_bytes());
        add(&(build.args.len() as u64).to_le_bytes());
        for (name, value) in &build.args {
            add(name.as_bytes());
            add(value.as_bytes());
        }
        for file in &self.files {
            add(file.path.as_bytes());
            add(&[u8::from(file.executable), u8::from(file.link)]);
            add(&file.content);
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn tar(&self) -> io::Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for file in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(FILE_TIME);
            header.set_mode(if file.executable { 0o755 } else { 0o644 });
            if file.link {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, &file.path, String::from_utf8_lossy(&file.content).as_ref())?;
            } else {
                header.set_size(file.content.len() as u64);
                tar.append_data(&mut header, &file.path, file.content.as_slice())?;
            }
        }
        tar.into_inner()
    }
}

/// The patterns of a `.dockerignore`: the last one that covers a path, or a folder above it, decides.
#[derive(Debug)]
struct Ignore(Vec<(GlobMatcher, bool)>);

impl Ignore {
    fn read(text: &str) -> Self {
        let patterns = text.trim_start_matches('\u{feff}').lines().map(str::trim);
        let patterns = patterns.filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(
            patterns
                .filter_map(|line| {
                    let (pattern, kept) = line.strip_prefix('!').map_or((line, false), |rest| (rest.trim(), true));
                    let pattern = pattern.trim_start_matches('/').trim_start_matches("./").trim_end_matches('/');
                    let glob = GlobBuilder::new(pattern).literal_separator(true).build().ok()?;
                    Some((glob.compile_matcher(), kept))
                })
                .collect(),
        )
    }

    fn covers(&self, path: &str) -> bool {
        let above = path.match_indices('/').map(|(at, _)| &path[..at]).chain([path]);
        let folders: Vec<&str> = above.collect();
        let deciding = self.0.iter().rev().find(|(glob, _)| folders.iter().any(|folder| glob.is_match(folder)));
        deciding.is_some_and(|(_, kept)| !kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files(Vec<SourceFile>);

    impl Source for Files {
        fn files(&self, folder: &str) -> Result<Vec<SourceFile>, String> {
            let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
            let below = |file: &SourceFile| {
                let path = file.path.strip_prefix(&prefix)?.to_owned();
                Some(SourceFile { path, ..file.clone() })
            };
            Ok(self.0.iter().filter_map(below).collect())
        }

        fn file(&self, path: &str) -> Result<Vec<u8>, String> {
            let found = self.0.iter().find(|file| file.path == path);
            found.map(|file| file.content.clone()).ok_or_else(|| "there is no such file".to_owned())
        }
    }

    fn files(names: &[(&str, &str)]) -> Files {
        let file = |(path, content): &(&str, &str)| SourceFile {
            path: (*path).to_owned(),
            content: content.as_bytes().to_vec(),
            executable: false,
            link: false,
        };
        Files(names.iter().map(file).collect())
    }

    fn build(context: &str, dockerfile: &str) -> Build {
        Build { context: context.into(), dockerfile: dockerfile.into(), target: None, args: Default::default() }
    }

    #[test]
    fn the_ignore_file_is_followed() {
        let ignore = Ignore::read("# comment\n\n*.log\n/target/\n**/cache\ndocs\n!docs/kept.md\na?c\n");
        for (path, wanted) in [
            ("x.log", true),
            ("sub/x.log", false),
            ("target/debug/x", true),
            ("sub/target/x", false),
            ("a/b/cache/x", true),
            ("cache/x", true),
            ("docs/other.md", true),
            ("docs/kept.md", false),
            ("abc", true),
            ("src/main.rs", false),
        ] {
            assert_eq!(ignore.covers(path), wanted, "{path}");
        }
    }

    #[test]
    fn the_context_holds_its_folder_and_the_dockerfile() {
        let source = files(&[
            ("Dockerfile", "FROM a"),
            ("app/.dockerignore", "*.md\nDockerfile"),
            ("app/Dockerfile", "FROM b"),
            ("app/README.md", "text"),
            ("app/src/x", "1"),
        ]);
        let paths = |context: &Context| context.files.iter().map(|file| file.path.clone()).collect::<Vec<_>>();
        let inside = Context::read(&build("app", "app/Dockerfile"), &source).expect("all is there");
        assert_eq!(
            (inside.dockerfile.as_str(), paths(&inside).join(" ")),
            ("Dockerfile", ".dockerignore Dockerfile src/x".into())
        );
        let outside = Context::read(&build("./app", "Dockerfile"), &source).expect("all is there");
        assert_eq!(outside.dockerfile, OUTSIDE);
        assert!(paths(&outside).contains(&OUTSIDE.to_owned()));
        let absent = Context::read(&build("", "absent"), &source).expect_err("it is not there");
        assert!(absent.to_string().contains("`absent` cannot be read"), "{absent}");
    }

    #[test]
    fn the_same_files_have_the_same_hash() {
        let hash = |names: &[(&str, &str)], build: &Build| {
            Context::read(build, &files(names)).expect("all is there").hash(build)
        };
        let plain = build("", "Dockerfile");
        let first = hash(&[("Dockerfile", "FROM a"), ("x", "1")], &plain);
        assert_eq!(first, hash(&[("x", "1"), ("Dockerfile", "FROM a")], &plain));
        let mut others = vec![
            hash(&[("Dockerfile", "FROM a"), ("x", "2")], &plain),
            hash(&[("Dockerfile", "FROM a"), ("y", "1")], &plain),
            hash(&[("Dockerfile", "FROM a"), ("x", "1")], &Build { target: Some("t".into()), ..plain.clone() }),
        ];
        let args = [("A".to_owned(), "1".to_owned())].into();
        others.push(hash(&[("Dockerfile", "FROM a"), ("x", "1")], &Build { args, ..plain.clone() }));
        assert!(others.iter().all(|other| *other != first));
    }
}
