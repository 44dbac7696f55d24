//! What the commands of a step are granted beyond the workspace: network, services, secrets. The file asks, devo.yaml and the
//! environment answer, and a pipeline that did not come from the home's own folder gets nothing that devo.yaml does not give.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};

use super::outfit::{Shop, environment};
use crate::config::SandboxType;
use crate::core::domain::Reach;
use crate::core::failure::Failure;
use crate::core::service::Services;
use crate::error::Error;
use crate::pipeline::{Pipeline, StepDef};
use crate::providers::endpoint::secret;
use crate::sandboxes::Network;
use crate::steps::{Grants, RUN_COMMANDS};
use crate::{secrets, yaml};

/// Who wrote a pipeline, as far as it matters for what it may be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// It stands under the home's `pipelines/`: whoever runs devo wrote or accepted it.
    Operator,
    /// Anyone: it stands in a task, which may come from a chat, or in a file elsewhere.
    Anyone,
}

/// The author of a pipeline that a task names.
pub fn author_of(name: &str, path: &Path, folder: &Path) -> Author {
    if !name.contains('/') && path.parent() == Some(folder) {
        return Author::Operator;
    }
    let real = |path: &Path| path.canonicalize().ok();
    match (real(path), real(folder)) {
        (Some(file), Some(folder)) if file.parent() == Some(&folder) => Author::Operator,
        _ => Author::Anyone,
    }
}

/// What is refused, and what to do about it.
type Refusals = Vec<(String, String)>;

impl Shop {
    /// Refuses a pipeline that asks for what it may not have, with every reason at once.
    pub fn check_grants(&self, pipeline: &Pipeline, author: Author, repo: Option<&str>) -> Result<(), Error> {
        let mut wrong = Refusals::new();
        for step in &pipeline.steps {
            self.check_network(step, author, repo, &mut wrong);
            self.check_services(step, author, repo, &mut wrong);
            self.check_secrets(step, author, &mut wrong);
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let messages: Vec<&str> = wrong.iter().map(|(message, _)| message.as_str()).collect();
        let mut hints: Vec<&str> = Vec::new();
        for (_, hint) in &wrong {
            if !hints.contains(&hint.as_str()) {
                hints.push(hint);
            }
        }
        Err(Error::refused("not_granted", messages.join("\n")).hint(hints.join("\n")))
    }

    fn check_network(&self, step: &StepDef, author: Author, repo: Option<&str>, wrong: &mut Refusals) {
        let Some(wanted) = &step.network else { return };
        let granted = self.config.reach_of(repo);
        // The whole network is the repository's to have; a list of domains is a pipeline's of our own.
        let bounded = author == Author::Anyone || *wanted == Reach::All;
        if let Some(beyond) = granted.beyond(wanted).filter(|_| bounded) {
            let whose = repo.map_or("a run without a repository".to_owned(), |repo| format!("the repository `{repo}`"));
            let message = format!("step `{}` asks for {beyond}, which devo.yaml does not grant to {whose}", step.id);
            let hint = match (repo, wanted) {
                (Some(repo), Reach::All) => {
                    format!("if it must be: `repos: {{{repo}: {{network: [\"*\"]}}}}` in devo.yaml")
                }
                (None, Reach::All) => "name the domains instead of `*`".to_owned(),
                (Some(repo), _) => format!("add them to `network` of `{repo}` in devo.yaml, or {}", self.how_to_own()),
                (None, _) => self.how_to_own(),
            };
            wrong.push((message, hint));
        }
    }

    fn check_services(&self, step: &StepDef, author: Author, repo: Option<&str>, wrong: &mut Refusals) {
        if author == Author::Anyone {
            let known = self.services_of(repo);
            for name in step.services.iter().filter(|(name, own)| known.get(*name) != Some(own)).map(|(name, _)| name) {
                let message = format!(
                    "step `{}` brings the service `{name}`: the images that run here are chosen in devo.yaml",
                    step.id
                );
                wrong.push((message, format!("write the service into devo.yaml, or {}", self.how_to_own())));
            }
        }
        let services = self.effective_services(step, repo);
        let (sandbox, name) = self.sandbox_of(repo);
        if let Some((service, _)) = services.first_key_value().filter(|_| sandbox.kind != SandboxType::Docker) {
            let message = format!(
                "step `{}` needs the service `{service}`, and services run beside a docker sandbox only: this is `{name}`",
                step.id
            );
            let place = repo.map_or("sandbox: ".to_owned(), |repo| format!("repos: {repo}: sandbox: "));
            wrong.push((message, format!("set `{place}{{type: docker, image: IMAGE}}` in devo.yaml")));
        }
    }

    fn check_secrets(&self, step: &StepDef, author: Author, wrong: &mut Refusals) {
        if author == Author::Anyone && !step.secrets.is_empty() {
            let message =
                format!("step `{}` names secrets, which only a pipeline of the home's own folder may do", step.id);
            wrong.push((message, self.how_to_own()));
            return;
        }
        for name in &step.secrets {
            if let Err(failure) = self.secret(name) {
                let message = format!("step `{}`: {}", step.id, failure.message);
                wrong.push((message, failure.hint.unwrap_or_default()));
            }
        }
    }

    fn how_to_own(&self) -> String {
        format!("put the pipeline under {}, and name it", self.home.join("pipelines").display())
    }

    fn services_of(&self, repo: Option<&str>) -> Services {
        repo.and_then(|name| self.config.repos.get(name)).map_or_else(Services::new, |repo| repo.services.clone())
    }

    /// The repository's services, and over them the step's; none for a step that runs no command.
    fn effective_services(&self, step: &StepDef, repo: Option<&str>) -> Services {
        if !RUN_COMMANDS.contains(&step.kind.as_str()) {
            return Services::new();
        }
        let mut services = self.services_of(repo);
        services.extend(step.services.clone());
        services
    }

    /// What a step of a run is given. Its secrets are masked from here on.
    pub fn grants(&self, step: &StepDef, repo: Option<&str>) -> Result<Grants, Failure> {
        let granted = self.config.reach_of(repo);
        let reach = step.network.as_ref().unwrap_or(&granted);
        let network = match reach {
            Reach::All if granted != Reach::All => {
                let message = format!("step `{}` asks for the whole network, which devo.yaml does not grant", step.id);
                return Err(Failure::terminal("not_granted", message)
                    .hint("set `network: [\"*\"]` of the repository in devo.yaml, then `devo retry RUN`"));
            }
            Reach::All => Network::Full,
            Reach::Domains(domains) if domains.is_empty() => Network::None,
            Reach::Domains(domains) => Network::Domains(domains.as_slice().into()),
        };
        let mut values = Vec::new();
        for name in &step.secrets {
            let value = self.secret(name)?;
            self.masker.add(&value);
            values.push((name.clone(), value));
        }
        Ok(Grants { network, services: Arc::new(self.effective_services(step, repo)), secrets: values })
    }

    /// The value of a pipeline's secret.
    ///
    /// # Errors
    /// Where devo.yaml does not list it, it is the engine's own, has no value, or one that could not be masked.
    pub fn secret(&self, name: &str) -> Result<SecretString, Failure> {
        let refuse = |message: String, hint: String| Err(Failure::terminal("no_secret", message).hint(hint));
        if let Some((why, help)) = self.config.no_secret(name) {
            return refuse(format!("`{name}` {why}"), help.to_owned());
        }
        if !self.config.secrets.iter().any(|known| known == name) {
            let near = yaml::nearest(name, self.config.secrets.iter().map(String::as_str));
            let hint = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("add it to devo.yaml: `secrets: [{name}]`"),
            };
            return refuse(format!("devo.yaml does not list the secret `{name}`"), hint);
        }
        let how = format!("set {name}, or {name}_FILE to the path of a file, or give devo a systemd credential {name}");
        let value = match secret(&[name], &environment) {
            Ok(Some(value)) => value,
            Ok(None) => return refuse(format!("the secret `{name}` has no value"), how),
            Err(error) => return refuse(format!("the secret `{name}` cannot be read: {error}"), error.hint()),
        };
        if !secrets::maskable(&value) {
            let message = format!("the secret `{name}` is too short to be told apart from ordinary words and masked");
            return refuse(message, "use a longer value".to_owned());
        }
        if value.expose_secret().contains('\0') {
            return refuse(format!("the secret `{name}` holds a zero byte, which no variable can"), how);
        }
        let same = |own: &&str| {
            let own = secret(&[*own], &environment).ok().flatten();
            own.is_some_and(|own| own.expose_secret() == value.expose_secret())
        };
        if let Some(own) = crate::config::own_credentials().find(|own| same(own)) {
            return refuse(
                format!("the secret `{name}` has the value of {own}, a credential of the engine's own"),
                "give the commands a credential of their own".to_owned(),
            );
        }
        Ok(value)
    }

    /// The secrets that the pipelines of the home name, each with the pipelines that do.
    pub fn named_secrets(&self) -> Vec<(String, Vec<String>)> {
        let files = std::fs::read_dir(self.home.join("pipelines")).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = files.map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
        files.sort();
        let mut named: Vec<(String, Vec<String>)> =
            self.config.secrets.iter().map(|name| (name.clone(), Vec::new())).collect();
        for path in files {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let read = std::fs::read(&path).ok().and_then(|bytes| yaml::parse_bytes(name, &bytes).ok());
            let Some(Ok(pipeline)) = read.map(|document| crate::pipeline::read(&document)) else { continue };
            for secret in pipeline.steps.iter().flat_map(|step| &step.secrets) {
                if !named.iter().any(|(known, _)| known == secret) {
                    named.push((secret.clone(), Vec::new()));
                }
                if let Some((_, users)) = named.iter_mut().find(|(known, _)| known == secret)
                    && !users.iter().any(|user| user == name)
                {
                    users.push(name.to_owned());
                }
            }
        }
        named
    }
}
