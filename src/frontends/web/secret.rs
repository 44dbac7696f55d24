//! Secrets of people: random tokens, their hashes, passwords. It does not know whose they are.

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use base64::Engine as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::error::Error;

/// Bytes of a token: beyond guessing, so that a fast hash keeps it well.
const TOKEN_BYTES: usize = 32;
/// The longest password, in bytes: hashing must not become work for strangers to give.
pub const PASSWORD_MAX: usize = 1024;

/// A new random token, in letters that need no quoting anywhere.
pub fn token() -> Result<String, Error> {
    let mut bytes = [0u8; TOKEN_BYTES];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::machine("random", "the system gives no random numbers", &error))?;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}

/// How a token is stored: `sha256:` and 64 hex digits.
pub fn token_hash(token: &str) -> String {
    let digest = Sha256::digest(token.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Whether two texts are the same; takes as long for a wrong first letter as for a wrong last one.
pub fn same(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

/// How a password is stored: argon2id with a random salt, as a PHC string. Takes tens of milliseconds on purpose.
pub fn password_hash(password: &str) -> Result<String, Error> {
    let hash = Argon2::default().hash_password(password.as_bytes());
    hash.map(|hash| hash.to_string()).map_err(|error| Error::bug(format!("a password could not be hashed: {error}")))
}

/// Whether a password is the one of a stored hash. Takes tens of milliseconds on purpose.
pub fn password_fits(password: &str, hash: &str) -> bool {
    password.len() <= PASSWORD_MAX && Argon2::default().verify_password(password.as_bytes(), hash).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_fit_their_secrets_and_no_others() {
        let (one, two) = (token().unwrap(), token().unwrap());
        assert!(one != two && one.len() >= 43);
        assert!(same(&token_hash(&one), &token_hash(&one)) && !same(&token_hash(&one), &token_hash(&two)));
        let hash = password_hash("correct horse").unwrap();
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        assert!(password_fits("correct horse", &hash) && !password_fits("wrong", &hash));
        assert!(!password_fits("x", "not a hash") && !password_fits(&"x".repeat(PASSWORD_MAX + 1), &hash));
    }
}
