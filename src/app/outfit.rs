//! What a run works with, put together from settings: repository, sandbox, models, prompts, steps. Secrets are read here and
//! handed to whoever sends them; they go nowhere else.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::access;
use super::base_files::BaseFiles;
use crate::agent::talk::Store;
use crate::config::{self, Config, SandboxType};
use crate::core::event::{CassetteUse, RunSpec};
use crate::core::failure::Failure;
use crate::core::id::{RunId, StepId};
use crate::core::time::Timestamp;
use crate::engine::{Caps, Clock, Outfitter, Prepared, PreparedStep};
use crate::journal::Journal;
use crate::pipeline::{self, Pipeline};
use crate::prompts::Prompts;
use crate::providers::cassette::{Cassette, Recording};
use crate::providers::client::http_transport;
use crate::providers::endpoint::Endpoint;
use crate::providers::{Client, ModelTable, Transport, provider};
use crate::sandboxes::docker::{self, Described};
use crate::sandboxes::{self, Sandbox, SandboxKind, Settings as SandboxSettings, Supervisor, Surroundings};
use crate::secrets::Masker;
use crate::steps::models::Clients;
use crate::steps::repo::Repo;
use crate::steps::{Equipment, kind};
use crate::workspace::{Author, Git, LinkTemplate, Remote, store_key};
use crate::yaml;

/// How long what was found of this machine's tools is believed.
const TOOLS_FOR: Duration = Duration::from_secs(10);
/// A start waits no longer for a docker daemon.
const SWEEP_WITHIN: Duration = Duration::from_secs(10);

/// What the labels of this home's containers say.
fn home_label(home: &Path) -> String {
    home.canonicalize().unwrap_or_else(|_| home.to_owned()).display().to_string()
}

/// Which step types call which role's model.
const CALLS: &[(&str, &str)] = &[("plan", "planner"), ("execute-loop", "executor")];

/// Puts the equipment of runs together.
pub struct Shop {
    /// The home.
    pub home: PathBuf,
    /// devo.yaml.
    pub config: Arc<Config>,
    /// Known secrets; all runs share them.
    pub masker: Masker,
    /// For artifacts.
    pub journal: Arc<dyn Journal>,
    /// For prices, which change on dates.
    pub clock: Clock,
    /// The tools of this machine.
    pub tools: Tools,
}

/// What sandboxes are given of this machine: looking for it reads folders, so that many runs share one look. It is looked
/// for again after a while: somebody may have installed something.
#[derive(Default)]
pub struct Tools(Mutex<Option<(Instant, SandboxSettings)>>);

impl Tools {
    /// The settings of a sandbox that nothing more is said of.
    fn settings(&self) -> SandboxSettings {
        let mut found = self.0.lock().expect("no holder of this lock can panic");
        match found.as_ref() {
            Some((at, settings)) if at.elapsed() < TOOLS_FOR => settings.clone(),
            _ => {
                let settings = SandboxSettings::new(Supervisor::this_program(), &Surroundings::from_env());
                found.insert((Instant::now(), settings)).1.clone()
            }
        }
    }
}

/// Artifacts of the journal as the agent loops see them.
struct Artifacts(Arc<dyn Journal>);

#[async_trait]
impl Store for Artifacts {
    async fn put(&self, bytes: Vec<u8>) -> Result<String, Failure> {
        self.0.put_artifact(bytes).await.map_err(|error| error.to_failure())
    }

    async fn get(&self, hash: &str) -> Result<Vec<u8>, Failure> {
        self.0.artifact(hash).await.map_err(|error| error.to_failure())
    }
}

pub(super) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Shop {
    /// The roles whose models a pipeline calls.
    pub fn roles_of(pipeline: &Pipeline) -> impl Iterator<Item = &'static str> + '_ {
        CALLS.iter().filter(|(kind, _)| pipeline.uses(kind)).map(|(_, role)| *role)
    }

    /// The roles whose models any pipeline can call.
    pub fn roles() -> impl Iterator<Item = &'static str> {
        CALLS.iter().map(|(_, role)| *role)
    }

    /// The repository that a task names.
    pub fn repo(&self, name: &str) -> Result<Repo, Failure> {
        let git = self.git()?;
        let found = self.config.repos.get(name);
        let (key, url, repo) = match found {
            Some(repo) => (name.to_owned(), repo.url.as_str(), Some(repo)),
            None if self.config.allow_paths && (name.contains('/') || name.contains(':')) => {
                (String::new(), name, None)
            }
            None => return Err(self.unknown_repo(name)),
        };
        let remote = Remote::parse(url, &self.home).map_err(|error| error.to_failure())?;
        if let Some(password) = remote.password() {
            self.masker.add(password);
        }
        let key = if key.is_empty() { store_key(&remote) } else { key };
        let credentials = access::credentials(&self.home, &self.config.git, &remote, &self.masker, &environment)?;
        let links = self.config.links.iter().find(|(host, _)| remote.is_on(host));
        Ok(Repo {
            key,
            base: repo.and_then(|repo| repo.base.clone()),
            depth: repo.and_then(|repo| repo.depth),
            protected: repo.map_or_else(Vec::new, |repo| repo.protected.clone()),
            checks: repo.map_or_else(Vec::new, |repo| repo.checks.clone().into_iter().collect()),
            author: Author { name: self.config.git.author.name.clone(), email: self.config.git.author.email.clone() },
            links: links.map(|(_, link)| LinkTemplate {
                branch: Some(link.branch.clone()),
                compare: Some(link.compare.clone()),
            }),
            credentials,
            remote,
            git,
            home: self.home.clone(),
        })
    }

    fn unknown_repo(&self, name: &str) -> Failure {
        let known: Vec<&str> = self.config.repos.keys().map(String::as_str).collect();
        let hint = match yaml::nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => format!("devo.yaml lists no repositories: add `repos: {{{name}: {{url: …}}}}`"),
            None => format!("known: {}; add it to devo.yaml under `repos`", known.join(", ")),
        };
        Failure::terminal("unknown_repo", format!("devo.yaml has no repository `{name}`")).hint(hint)
    }

    fn git(&self) -> Result<Git, Failure> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Git::find(&path, &self.home.join("repos").join(".git-home")).map_err(|error| error.to_failure())
    }

    /// The sandbox settings of a repository, or of pipelines without one.
    pub(super) fn sandbox_of(&self, repo: Option<&str>) -> (&config::Sandbox, &'static str) {
        let own = repo.and_then(|name| self.config.repos.get(name)).and_then(|repo| repo.sandbox.as_ref());
        let chosen = own.unwrap_or(&self.config.sandbox);
        (chosen, chosen.kind.name())
    }

    /// The name of the sandbox that a run would use.
    pub fn sandbox_name(&self, repo: Option<&str>) -> &'static str {
        self.sandbox_of(repo).1
    }

    /// The sandbox of a run: the one that it was accepted with, so that a resumed run is never less confined. Without a
    /// run it is one to try.
    pub fn sandbox(&self, name: &str, repo: Option<&str>, run: Option<RunId>) -> Result<Arc<dyn Sandbox>, Failure> {
        let (settings, configured) = self.sandbox_of(repo);
        let kind: SandboxKind = name.parse().map_err(|error| crate::steps::sandbox_failure(&error))?;
        let mut own = self.tools.settings();
        own.read = settings.read.clone();
        own.hide = self.out_of_sight();
        if settings.kind == SandboxType::Host && configured == name {
            own.host_allowed = Some("devo.yaml says `sandbox: {type: host}`".to_owned());
        }
        if kind == SandboxKind::Docker {
            let repo = repo.map(|name| self.repo(name)).transpose()?;
            own.docker = self.container(settings, repo, run);
        }
        sandboxes::open(kind, &own).map_err(|error| crate::steps::sandbox_failure(&error))
    }

    /// What no command may see, wherever it lies: the home, and the files of the secrets that devo and git use.
    fn out_of_sight(&self) -> Vec<PathBuf> {
        let secrets = self.config.own_credentials().chain(self.config.secrets.iter().map(String::as_str));
        let mut all = crate::secrets::source::places(secrets, &environment);
        all.extend(access::key_files(&self.home, &self.config.git, &environment));
        all.push(self.home.clone());
        all
    }

    /// How containers of a run are made; none if devo.yaml does not say any more what they are.
    fn container(
        &self,
        settings: &config::Sandbox,
        repo: Option<Repo>,
        run: Option<RunId>,
    ) -> Option<docker::Settings> {
        let described = match settings {
            config::Sandbox { image: Some(image), .. } => Described::Image(image.clone()),
            config::Sandbox { dockerfile: Some(dockerfile), context, .. } => Described::Build(docker::Build {
                context: context.clone().unwrap_or_default(),
                dockerfile: dockerfile.clone(),
                target: None,
                args: BTreeMap::new(),
            }),
            config::Sandbox { devcontainer: Some(file), .. } => Described::Devcontainer(file.clone()),
            config::Sandbox { compose: Some(file), service, .. } => Described::Compose(file.clone(), service.clone()),
            _ => return None,
        };
        let run = run.map_or_else(|| format!("trial-{}", std::process::id()), |run| run.to_string());
        let run_dir = self.home.join("runs").join(&run);
        Some(docker::Settings {
            home: home_label(&self.home),
            described,
            logs: run_dir.join("logs").join("services"),
            source: Arc::new(BaseFiles::new(repo, run_dir)),
            yaml: Arc::new(|file, bytes| match yaml::parse_foreign(file, bytes) {
                Ok(document) => Ok(document.root.to_json()),
                Err(wrong) => Err(yaml::render(&wrong, &String::from_utf8_lossy(bytes), false)),
            }),
            masker: self.masker.clone(),
            writable: settings.writable,
            runtime: settings.runtime.clone(),
            cpus: settings.limits.cpus,
            run,
        })
    }

    /// What one command of a run may use.
    fn limits(&self, repo: Option<&str>) -> sandboxes::Limits {
        const MIB: u64 = 1 << 20;
        let given = self.sandbox_of(repo).0.limits;
        let usual = sandboxes::Limits::default();
        sandboxes::Limits {
            memory_bytes: given.memory_mib.map_or(usual.memory_bytes, |mib| mib * MIB),
            pids: given.pids.unwrap_or(usual.pids),
            disk_free_bytes: given.disk_free_mib.map_or(usual.disk_free_bytes, |mib| mib * MIB),
            ..usual
        }
    }

    /// Removes the containers and networks that engines left which were killed, and says how many. Quick, and silent where docker is not
    /// configured; to be called by whoever owns the home, before it drives a run.
    pub async fn sweep(&self) -> usize {
        let repos = self.config.repos.values().filter_map(|repo| repo.sandbox.as_ref());
        if !repos.chain([&self.config.sandbox]).any(|sandbox| sandbox.kind == SandboxType::Docker) {
            return 0;
        }
        let home = home_label(&self.home);
        match tokio::time::timeout(SWEEP_WITHIN, docker::sweep(&home, &|_| false)).await {
            Ok(Ok(count)) => {
                if count > 0 {
                    tracing::info!("removed {count} containers and networks that an earlier engine left");
                }
                return count;
            }
            // Who needs the daemon is told then, with the remedy.
            Ok(Err(error)) => tracing::debug!("nothing was swept: {error}"),
            Err(_) => tracing::warn!("the docker daemon does not answer; what earlier runs left in it was not removed"),
        }
        0
    }

    /// A role's model over the network, or over a cassette.
    pub fn client(&self, role: &'static str, cassettes: &Cassettes, now: Timestamp) -> Result<Client, Failure> {
        let Some(chosen) = self.config.role(role) else {
            return Err(Failure::terminal("no_role", format!("there is no role `{role}`")));
        };
        let named = |code: &str, message: String, hint: String| {
            Failure::terminal(code, format!("role `{role}`: {message}")).hint(hint)
        };
        let adapter =
            provider(&chosen.provider).map_err(|error| named("unknown_provider", error.to_string(), error.hint()))?;
        let table = ModelTable::builtin().with_overrides(self.config.prices.clone(), self.config.models.clone());
        let card = table
            .card(&chosen.provider, &chosen.model, now)
            .map_err(|error| named("unknown_model", error.to_string(), error.hint()))?;
        let transport: Arc<dyn Transport> = match cassettes {
            Cassettes::Replay(cassette) => Arc::new(cassette.replay(role, adapter)),
            Cassettes::None | Cassettes::Record(_) => {
                let endpoint = Endpoint::from_env(adapter, &environment)
                    .map_err(|error| named("endpoint", error.to_string(), error.hint()))?;
                let http = http_transport(adapter, &endpoint, &self.masker).map_err(|error| {
                    let failure = error.to_failure();
                    Failure { message: format!("role `{role}`: {}", failure.message), ..failure }
                })?;
                match cassettes {
                    Cassettes::Record(recording) => Arc::new(recording.record(role, adapter, http)),
                    _ => http,
                }
            }
        };
        Ok(Client::new(adapter, card, transport).masker(self.masker.clone()))
    }

    /// Opens the cassette that a run uses.
    pub fn cassettes(&self, spec: &RunSpec) -> Result<Cassettes, Failure> {
        let failed = |error: crate::providers::cassette::CassetteError| {
            Failure::terminal("cassette", error.to_string()).hint(error.hint())
        };
        Ok(match &spec.cassette {
            None => Cassettes::None,
            Some(CassetteUse::Replay(path)) => {
                Cassettes::Replay(Arc::new(Cassette::open(Path::new(path)).map_err(failed)?))
            }
            Some(CassetteUse::Record(path)) => {
                let recording =
                    Recording::open(Path::new(path), spec.task_id, None, self.masker.clone()).map_err(failed)?;
                Cassettes::Record(Arc::new(recording))
            }
        })
    }

    /// Everything that the steps of a run share.
    pub fn equipment(&self, spec: &RunSpec, pipeline: &Pipeline) -> Result<Equipment, Failure> {
        let cassettes = self.cassettes(spec)?;
        let now = self.clock.now();
        let clients: Clients =
            Self::roles_of(pipeline).map(|role| (role, self.client(role, &cassettes, now).map(Arc::new))).collect();
        let repo = spec.repo.as_deref().map(|name| self.repo(name)).transpose()?;
        Ok(Equipment {
            masker: self.masker.clone(),
            sandbox: self.sandbox(&spec.sandbox, spec.repo.as_deref(), Some(spec.task_id))?,
            limits: self.limits(spec.repo.as_deref()),
            repo,
            clients,
            prompts: Prompts::of_home(&self.home),
            artifacts: Arc::new(Artifacts(self.journal.clone())),
        })
    }
}

/// The cassette of a run, opened.
pub enum Cassettes {
    /// None.
    None,
    /// Calls are answered from it.
    Replay(Arc<Cassette>),
    /// Calls are made and recorded.
    Record(Arc<Recording>),
}

impl Outfitter for Shop {
    fn outfit(&self, spec: &RunSpec) -> Result<Prepared, Failure> {
        let pipeline = stored_pipeline(spec)?;
        let equipment = Arc::new(self.equipment(spec, &pipeline)?);
        let branches = branches(&pipeline);
        let mut steps = HashMap::new();
        for step in &pipeline.steps {
            let kind = kind(&step.kind).ok_or_else(|| {
                Failure::terminal("unknown_type", format!("step `{}`: no type `{}`", step.id, step.kind))
            })?;
            let built = (kind.build)(&step.spec)
                .map_err(|error| Failure::terminal("bad_step", format!("step `{}`: {error}", step.id)))?;
            // Types without templates of their own look at what comes before them by type. A command is shown what its
            // templates name, and the branch: where there is one, it runs in its files.
            let references: Option<Vec<StepId>> =
                (step.kind == "shell").then(|| step.references.iter().chain(branches.get(&step.id)).cloned().collect());
            let prepared = PreparedStep {
                step: built,
                condition: step.condition.clone(),
                env: step.env.clone(),
                grants: self.grants(step, spec.repo.as_deref()),
                references,
            };
            steps.insert(step.id.clone(), prepared);
        }
        Ok(Prepared { steps, equipment })
    }

    fn sandbox(&self, spec: &RunSpec) -> Option<Result<Arc<dyn Sandbox>, Failure>> {
        Some(Shop::sandbox(self, &spec.sandbox, spec.repo.as_deref(), Some(spec.task_id)))
    }

    fn caps(&self) -> Caps {
        Caps { runs: self.config.limits.runs, per_repo: self.config.limits.per_repo }
    }
}

/// The last `branch` step that comes before each step. Looked up once: a chain of commands may have 10,000.
fn branches(pipeline: &Pipeline) -> HashMap<StepId, StepId> {
    let mut found = HashMap::new();
    if !pipeline.uses("branch") {
        return found;
    }
    let graph = pipeline.graph();
    let mut branches: Vec<_> = (0..graph.len()).filter(|at| graph.node(*at).kind == "branch").collect();
    branches.sort_by_key(|at| graph.place(*at));
    for branch in branches {
        let id = &graph.node(branch).id;
        found.extend(graph.downstream(branch).into_iter().map(|at| (graph.node(at).id.clone(), id.clone())));
    }
    found
}

/// The pipeline that a run was accepted with.
pub fn stored_pipeline(spec: &RunSpec) -> Result<Pipeline, Failure> {
    let name = format!("{}.yaml", spec.pipeline);
    let read = yaml::parse(&name, &spec.pipeline_text).and_then(|document| pipeline::read(&document));
    read.map_err(|wrong| {
        let text = yaml::render(&wrong, &spec.pipeline_text, false);
        Failure::terminal("bad_pipeline", format!("the stored pipeline cannot be read by this version:\n{text}"))
    })
}
