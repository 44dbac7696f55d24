//! Where a secret comes from: an environment that is passed in, a file that it names, systemd's credentials. Knows neither
//! who wants it nor what it opens.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};

/// The largest file of a secret, in bytes.
const LARGEST: u64 = 16 * 1024;

/// A file that should hold a secret and cannot be read. Never holds the secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the file that {name} names cannot be read ({}): {reason}", .path.display())]
pub struct Unreadable {
    /// The variable.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

impl Unreadable {
    /// How to mend it.
    pub fn hint(&self) -> String {
        format!("write the secret alone into {} (mode 0600), or unset {}", self.path.display(), self.name)
    }
}

/// A secret from the first of: the variables of these names, the files that `NAME_FILE` names, the files of these names
/// in `$CREDENTIALS_DIRECTORY` (systemd). White space around it is dropped; an empty one counts as none.
pub fn secret(names: &[&str], lookup: &dyn Fn(&str) -> Option<String>) -> Result<Option<SecretString>, Unreadable> {
    for name in names {
        if let Some(key) = lookup(name).and_then(filled) {
            return Ok(Some(key));
        }
    }
    for name in names {
        let name = format!("{name}_FILE");
        if let Some(path) = lookup(&name).filter(|path| !path.is_empty())
            && let Some(key) = from_file(&name, Path::new(&path))?
        {
            return Ok(Some(key));
        }
    }
    let Some(folder) = lookup("CREDENTIALS_DIRECTORY").filter(|path| !path.is_empty()) else { return Ok(None) };
    for name in names {
        let path = Path::new(&folder).join(name);
        if path.exists()
            && let Some(key) = from_file("CREDENTIALS_DIRECTORY", &path)?
        {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

/// Every file and folder in which [`secret`] looks for these names.
pub fn places<'n>(names: impl Iterator<Item = &'n str>, lookup: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let files = names.map(|name| format!("{name}_FILE"));
    let all = files.chain(["CREDENTIALS_DIRECTORY".to_owned()]);
    all.filter_map(|name| lookup(&name).filter(|path| !path.is_empty()).map(PathBuf::from)).collect()
}

fn from_file(name: &str, path: &Path) -> Result<Option<SecretString>, Unreadable> {
    let refuse = |reason: String| Unreadable { name: name.to_owned(), path: path.to_owned(), reason };
    let meta = std::fs::metadata(path).map_err(|error| refuse(error.to_string()))?;
    if !meta.is_file() {
        return Err(refuse("it is not a file".into()));
    }
    let file = std::fs::File::open(path).map_err(|error| refuse(error.to_string()))?;
    let mut text = String::new();
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(|error| refuse(error.to_string()))?;
    let text = SecretString::from(text);
    if text.expose_secret().len() as u64 > LARGEST {
        return Err(refuse("it is too large for a secret".into()));
    }
    Ok(filled(text.expose_secret().to_owned()))
}

fn filled(text: String) -> Option<SecretString> {
    let text = SecretString::from(text);
    let key = text.expose_secret().trim();
    (!key.is_empty()).then(|| key.to_owned().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        let pairs: Vec<(String, String)> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        move |name| pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = secret(&["K"], &env(&[("K_FILE", "/nowhere/k")])).unwrap_err();
        assert!(error.to_string().contains("/nowhere/k") && error.to_string().contains("K_FILE"), "{error}");
        assert!(secret(&["K"], &env(&[("K_FILE", "/dev/zero")])).unwrap_err().to_string().contains("not a file"));
        assert!(error.hint().contains("unset K_FILE"));
    }
}
