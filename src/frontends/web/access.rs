//! Who someone is and what they may do: the owner by the home's token, users of devo.yaml by token or password, browsers by a
//! session, phones by a one-time link. It does not know what is asked for.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Mutex;

use super::secret::{password_fits, same, token, token_hash};
use crate::app::App;
use crate::config::{Config, OWNER, UserRole};
use crate::core::event::Who;
use crate::error::Error;

/// The file of the owner's token, in the home.
pub const TOKEN_FILE: &str = "token";
/// Where sessions and links are kept in the journal.
const SCOPE: &str = "web";
/// How long a browser stays signed in, in milliseconds.
pub const SESSION_MS: u64 = 14 * 24 * 3600 * 1000;
/// How long a one-time link works, in milliseconds.
pub const LINK_MS: u64 = 10 * 60 * 1000;
/// A hash that no password has: an unknown name takes as long as a wrong password.
const NOBODYS: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b7dWRWJTmaaJObG";

/// Someone who was recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The user's name.
    pub name: String,
    roles: Vec<UserRole>,
}

impl Person {
    fn owner() -> Self {
        Self { name: OWNER.to_owned(), roles: vec![UserRole::Viewer, UserRole::Submitter, UserRole::Approver] }
    }

    /// Whether they may act in a role; everybody who is known may look.
    pub fn may(&self, role: UserRole) -> bool {
        role == UserRole::Viewer || self.roles.contains(&role)
    }

    /// For the record.
    pub fn who(&self, channel: &str) -> Who {
        Who { by: self.name.clone(), channel: channel.to_owned() }
    }
}

/// A browser that is signed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Whose.
    pub user: String,
    /// What each of its changes must bring along.
    pub csrf: String,
    /// Which credentials the user had when it began: without them it ends.
    credentials: String,
    /// When it ends, in milliseconds since the epoch.
    until: i64,
}

#[derive(Serialize, Deserialize)]
struct Link {
    user: String,
    until: i64,
}

/// Recognises people.
pub struct Access {
    app: Arc<App>,
    /// The hash of the owner's token, and the settings in force when it was read: it is read again with devo.yaml.
    owner: std::sync::Mutex<(Arc<Config>, String)>,
    /// Held while a one-time link is used, so that it is used once.
    links: Mutex<()>,
}

impl Access {
    /// Reads the owner's token, or makes it.
    pub fn new(app: Arc<App>) -> Result<Self, Error> {
        let owner = std::sync::Mutex::new((app.config(), read_owner(&app)?));
        Ok(Self { app, owner, links: Mutex::new(()) })
    }

    /// The hash of the owner's token.
    fn owner_hash(&self) -> String {
        let config = self.app.config();
        let mut known = self.owner.lock().expect("no holder of this lock can panic");
        if !Arc::ptr_eq(&known.0, &config) {
            known.0 = config;
            match read_owner(&self.app) {
                Ok(hash) => known.1 = hash,
                Err(error) => tracing::error!(error = %error.to_text().trim_end(), "the owner's token stays as it was"),
            }
        }
        known.1.clone()
    }

    /// What stands for a user's present credentials; it lets nobody in. `None` for someone whom devo.yaml does not know.
    fn credentials(&self, name: &str) -> Option<String> {
        let stored = if name == OWNER {
            self.owner_hash()
        } else {
            let config = self.app.config();
            let user = config.users.get(name)?;
            let [password, token] = [&user.password, &user.token].map(|stored| stored.as_deref().unwrap_or_default());
            format!("{password}\n{token}")
        };
        Some(token_hash(&stored))
    }

    /// Who has this token.
    pub fn by_token(&self, given: &str) -> Option<Person> {
        let hash = token_hash(given.trim());
        if same(&hash, &self.owner_hash()) {
            return Some(Person::owner());
        }
        let config = self.app.config();
        let users = &config.users;
        // Every hash is compared: how long it takes says nothing of whose it is.
        let fits =
            |stored: &Option<String>| stored.as_ref().is_some_and(|stored| same(&stored.to_ascii_lowercase(), &hash));
        let found: Vec<&String> = users.iter().filter(|(_, user)| fits(&user.token)).map(|(name, _)| name).collect();
        found.first().and_then(|name| self.by_name(name))
    }

    /// Who has this name and password.
    pub async fn by_password(&self, name: &str, password: &str) -> Option<Person> {
        let stored = self.app.config().users.get(name).and_then(|user| user.password.clone());
        let password = password.to_owned();
        let known = stored.is_some();
        let stored = stored.unwrap_or_else(|| NOBODYS.to_owned());
        let fits = tokio::task::spawn_blocking(move || password_fits(&password, &stored)).await.unwrap_or(false);
        if known && fits { self.by_name(name) } else { None }
    }

    /// The user of that name, as devo.yaml has it now.
    fn by_name(&self, name: &str) -> Option<Person> {
        if name == OWNER {
            return Some(Person::owner());
        }
        let config = self.app.config();
        let user = config.users.get(name)?;
        Some(Person { name: name.to_owned(), roles: user.roles.clone() })
    }

    /// Signs a browser in: the answer is the cookie's value and the session.
    pub async fn open_session(&self, person: &Person) -> Result<(String, Session), Error> {
        self.sweep().await?;
        let cookie = token()?;
        let until = self.app.clock.now().plus_ms(SESSION_MS).0;
        let user = person.name.clone();
        let credentials = self.credentials(&user).unwrap_or_default();
        let session = Session { user, csrf: token()?, credentials, until };
        self.put(&format!("session:{}", token_hash(&cookie)), &session).await?;
        Ok((cookie, session))
    }

    /// The session of a cookie, and whose it is.
    pub async fn session(&self, cookie: &str) -> Result<Option<(Person, Session)>, Error> {
        let key = format!("session:{}", token_hash(cookie));
        let Some(session) = self.get::<Session>(&key).await? else { return Ok(None) };
        let present = self.credentials(&session.user);
        if session.until <= self.app.clock.now().0 || present.as_ref() != Some(&session.credentials) {
            return Ok(None);
        }
        Ok(self.by_name(&session.user).map(|person| (person, session)))
    }

    /// Signs a browser out.
    pub async fn close_session(&self, cookie: &str) -> Result<(), Error> {
        let key = format!("session:{}", token_hash(cookie));
        Ok(self.app.journal.keep(SCOPE, vec![(key, None)]).await?)
    }

    /// Whom a one-time link signs in; it works once.
    pub async fn use_link(&self, given: &str) -> Result<Option<Person>, Error> {
        let _one = self.links.lock().await;
        let key = format!("link:{}", token_hash(given));
        let Some(link) = self.get::<Link>(&key).await? else { return Ok(None) };
        self.app.journal.keep(SCOPE, vec![(key, None)]).await?;
        Ok(if link.until <= self.app.clock.now().0 { None } else { self.by_name(&link.user) })
    }

    /// Forgets what has ended.
    async fn sweep(&self) -> Result<(), Error> {
        let now = self.app.clock.now().0;
        let mut over = Vec::new();
        for prefix in ["session:", "link:"] {
            for (key, value) in self.app.journal.kept_with(SCOPE, prefix).await? {
                if value["until"].as_i64().is_none_or(|until| until <= now) {
                    over.push((key, None));
                }
            }
        }
        if over.is_empty() { Ok(()) } else { Ok(self.app.journal.keep(SCOPE, over).await?) }
    }

    async fn put(&self, key: &str, value: &impl Serialize) -> Result<(), Error> {
        put(&self.app, key, value).await
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        let value = self.app.journal.kept(SCOPE, key).await?;
        Ok(value.and_then(|value| serde_json::from_value(value).ok()))
    }
}

async fn put(app: &App, key: &str, value: &impl Serialize) -> Result<(), Error> {
    let value = serde_json::to_value(value).map_err(|error| Error::bug(error.to_string()))?;
    Ok(app.journal.keep(SCOPE, vec![(key.to_owned(), Some(value))]).await?)
}

/// Makes a one-time link for a user: the answer is the whole address. Any process of the home may do this.
///
/// # Errors
/// A user whom devo.yaml does not know, or a journal that cannot be written.
pub async fn make_link(app: &App, user: &str) -> Result<String, Error> {
    let config = app.config();
    if user != OWNER && !config.users.contains_key(user) {
        let known: Vec<&str> = std::iter::once(OWNER).chain(config.users.keys().map(String::as_str)).collect();
        return Err(Error::refused("unknown_user", format!("devo.yaml has no user `{user}`"))
            .hint(format!("users: {}", known.join(", "))));
    }
    let base = base_url(app).await?;
    let secret = token()?;
    let link = Link { user: user.to_owned(), until: app.clock.now().plus_ms(LINK_MS).0 };
    put(app, &format!("link:{}", token_hash(&secret)), &link).await?;
    Ok(format!("{base}/login?link={secret}"))
}

/// Where the daemon's pages are: `web.url`, else where the daemon listened last, else where it is configured to.
///
/// # Errors
/// A journal that cannot be read, or a daemon that listens everywhere: that is no address to send a browser to.
pub async fn base_url(app: &App) -> Result<String, Error> {
    let config = app.config();
    let web = &config.web;
    if let Some(url) = &web.url {
        return Ok(url.trim_end_matches('/').to_owned());
    }
    let last = app.journal.kept(SCOPE, "listening").await?;
    let last = last.as_ref().and_then(Value::as_str).filter(|_| web.listen.port() == 0);
    let address = last.and_then(|address| address.parse().ok()).unwrap_or(web.listen);
    if address.ip().is_unspecified() {
        return Err(Error::refused(
            "no_url",
            format!(
                "web.listen is {address}, which no browser can open; web.url has to say how people reach the pages"
            ),
        )
        .hint("web: {url: https://devo.example.org}    # in devo.yaml"));
    }
    Ok(format!("http://{address}"))
}

/// Remembers where the daemon listens, for links that other processes make.
pub async fn listening(app: &App, address: std::net::SocketAddr) -> Result<(), Error> {
    put(app, "listening", &address.to_string()).await
}

/// The hash of the owner's token, which is kept out of every text from now on.
fn read_owner(app: &App) -> Result<String, Error> {
    let owner = owner_token(&app.home)?;
    app.hide(&SecretString::from(owner.clone()));
    Ok(token_hash(&owner))
}

/// The owner's token, made at the first call; readable by its owner alone.
fn owner_token(home: &Path) -> Result<String, Error> {
    let path = home.join(TOKEN_FILE);
    let failed = |error: &std::io::Error| {
        Error::machine("token", format!("cannot use {}", path.display()), error)
            .hint("it holds the owner's token; remove it, and the next start makes another")
    };
    for _ in 0..2 {
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(mut file) => {
                let token = token()?;
                let written = file.write_all(format!("{token}\n").as_bytes()).and_then(|()| file.sync_all());
                written.map_err(|error| failed(&error))?;
                return Ok(token);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let mut text = String::new();
                let file = std::fs::File::open(&path).map_err(|error| failed(&error))?;
                file.take(4096).read_to_string(&mut text).map_err(|error| failed(&error))?;
                let token = text.trim();
                if token.len() >= 16 {
                    return Ok(token.to_owned());
                }
                if !token.is_empty() {
                    return Err(Error::refused(
                        "token",
                        format!("{} holds no token of 16 letters or more", path.display()),
                    )
                    .hint("remove it, and the next start makes one"));
                }
                // A start that died between making and filling it.
                std::fs::remove_file(&path).map_err(|error| failed(&error))?;
            }
            Err(error) => return Err(failed(&error)),
        }
    }
    Err(Error::refused("token", format!("{} is being written by someone else", path.display())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_owners_token_is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let one = owner_token(dir.path()).unwrap();
        assert_eq!(owner_token(dir.path()).unwrap(), one);
        let path = dir.path().join(TOKEN_FILE);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "").unwrap();
        assert_ne!(owner_token(dir.path()).unwrap(), one, "an empty file is a start that died");
        std::fs::write(&path, "short").unwrap();
        assert_eq!(owner_token(dir.path()).unwrap_err().code, "token");
    }

    #[test]
    fn the_hash_of_nobody_is_a_hash() {
        use argon2::password_hash::phc::PasswordHash;
        assert!(PasswordHash::new(NOBODYS).is_ok());
        assert!(!password_fits("", NOBODYS));
    }
}
