//! What a typed message asks for. It reads text and knows no run.

/// A command of the bot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `/task [REPO] TEXT`
    Task(String),
    /// `/new`
    New,
    /// `/plan [RUN]`
    Plan(Option<String>),
    /// `/plan approve [RUN]`
    Approve(Option<String>),
    /// `/status [RUN]`
    Status(Option<String>),
    /// `/abort [RUN]`
    Abort(Option<String>),
    /// `/lang [en|es]`
    Lang(Option<String>),
    /// `/verbose [quiet|steps|tools]`
    Verbose(Option<String>),
    /// `/mute [RUN]`, and `/unmute [RUN]`
    Mute(Option<String>, bool),
    /// `/login`
    Login,
    /// `/help`, `/start`
    Help,
    /// A command that there is not.
    Unknown(String),
}

/// The commands that Telegram offers while a person types, in the order of its menu.
pub const MENU: &[&str] =
    &["task", "new", "plan", "status", "abort", "mute", "unmute", "login", "lang", "verbose", "help"];

/// Reads a command. `None` for text that is none, and for commands that are another bot's (`/task@other_bot`).
pub fn read(text: &str, bot: &str) -> Option<Command> {
    let text = text.trim();
    let rest = text.strip_prefix('/')?;
    let (word, rest) = rest.split_once(|char: char| char.is_whitespace()).unwrap_or((rest, ""));
    let (name, addressed) = match word.split_once('@') {
        Some((name, to)) if to.eq_ignore_ascii_case(bot) => (name, true),
        Some(_) => return None,
        None => (word, false),
    };
    let rest = rest.trim();
    let one = || (!rest.is_empty()).then(|| rest.to_owned());
    Some(match name.to_ascii_lowercase().as_str() {
        "task" => Command::Task(rest.to_owned()),
        "new" => Command::New,
        "plan" => match rest.split_whitespace().next() {
            Some(word) if word.eq_ignore_ascii_case("approve") => {
                let run = rest[word.len()..].trim();
                Command::Approve((!run.is_empty()).then(|| run.to_owned()))
            }
            _ => Command::Plan(one()),
        },
        "status" => Command::Status(one()),
        "abort" => Command::Abort(one()),
        "lang" => Command::Lang(one()),
        "verbose" => Command::Verbose(one()),
        "mute" => Command::Mute(one(), true),
        "unmute" => Command::Mute(one(), false),
        "login" => Command::Login,
        "help" | "start" => Command::Help,
        // A path or another bot's command, unless this bot is named.
        name if name.is_empty() || (!addressed && name.contains('/')) => return None,
        name => Command::Unknown(name.chars().take(32).collect()),
    })
}

/// `[REPO] TEXT`: the repository, if the first word is one, and the text.
pub fn repo_and_text<'t>(text: &'t str, repos: &[String]) -> (Option<&'t str>, &'t str) {
    let (word, rest) = text.split_once(|char: char| char.is_whitespace()).unwrap_or((text, ""));
    if repos.iter().any(|repo| repo == word) { (Some(word), rest.trim()) } else { (None, text.trim()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_their_words() {
        let some = |text: &str| Some(text.to_owned());
        for (text, wanted) in [
            ("/task shop fix it\nand that", Command::Task("shop fix it\nand that".into())),
            ("/TASK@Devo_Bot x", Command::Task("x".into())),
            ("/task", Command::Task(String::new())),
            ("/plan", Command::Plan(None)),
            ("/plan 3f2a", Command::Plan(some("3f2a"))),
            ("/plan approve", Command::Approve(None)),
            (" /plan  Approve  3f2a ", Command::Approve(some("3f2a"))),
            ("/plan approves", Command::Plan(some("approves"))),
            ("/status", Command::Status(None)),
            ("/abort 1", Command::Abort(some("1"))),
            ("/lang es", Command::Lang(some("es"))),
            ("/login", Command::Login),
            ("/mute", Command::Mute(None, true)),
            ("/unmute 3f2a", Command::Mute(some("3f2a"), false)),
            ("/start", Command::Help),
            ("/frobnicate now", Command::Unknown("frobnicate".into())),
        ] {
            assert_eq!(read(text, "devo_bot"), Some(wanted), "{text}");
        }
        for text in ["approve", "yes", "", "/", "/task@other_bot x", "/etc/passwd", "aprobado /plan approve"] {
            assert_eq!(read(text, "devo_bot"), None, "{text}");
        }
    }

    #[test]
    fn the_first_word_is_a_repository_only_if_there_is_one_of_that_name() {
        let repos = ["shop".to_owned(), "api".to_owned()];
        assert_eq!(repo_and_text("shop fix\nit", &repos), (Some("shop"), "fix\nit"));
        assert_eq!(repo_and_text("shop", &repos), (Some("shop"), ""));
        assert_eq!(repo_and_text("shopping is broken", &repos), (None, "shopping is broken"));
        assert_eq!(repo_and_text("Shop fix", &repos), (None, "Shop fix"));
    }
}
