//! Settings of notifications beside the chats: who is told when a plan is ready, a question is asked, a run fails or is done,
//! and when not.

use jiff::civil::Time;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Config, Language};
use crate::core::rings::Target;
use crate::core::time::Timestamp;
use crate::pipeline::parse_duration;

/// Who is told.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Notify {
    /// A program that is told by a signed POST.
    #[schemars(with = "Webhook")]
    pub webhook: Option<Webhook>,
    /// People who are told by e-mail.
    #[schemars(with = "Smtp")]
    pub smtp: Option<Smtp>,
    /// Whether a command that follows a run tells the desktop of its terminal: by `notify-send`, or by what the terminal
    /// itself can show. Never without a terminal, and never where the variable CI is set.
    pub desktop: bool,
    /// Hours in which no chat rings and no mail is sent; what rings then waits until they are over.
    #[schemars(with = "QuietHours")]
    pub quiet_hours: Option<QuietHours>,
    /// When a plan or a question that nobody answered is told again, by chat and mail.
    pub reminders: Reminders,
}

/// A program that is told by a signed POST.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where it listens: http or https.
    pub url: String,
    /// Name of the environment variable with the shared secret (or with `_FILE`, or a systemd credential of that name).
    pub secret: String,
    /// Whether it is told of every run; otherwise only of those whose task says `notify: [webhook]`.
    #[serde(default = "yes")]
    pub all: bool,
}

fn yes() -> bool {
    true
}

/// People who are told by e-mail, and the server that takes the mail.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Smtp {
    /// The server's name, which its certificate must bear.
    pub host: String,
    /// Its port; 587 with `starttls`, 465 with `tls`, 25 with `none` if not given.
    #[serde(default)]
    pub port: Option<u16>,
    /// How the way to it is protected.
    #[serde(default)]
    pub security: Security,
    /// The user, if the server wants one.
    #[serde(default)]
    pub user: Option<String>,
    /// Name of the environment variable with the user's password (or with `_FILE`, or a systemd credential of that name).
    #[serde(default)]
    pub password: Option<String>,
    /// The sender: `devo@example.org`, or `Devo <devo@example.org>`.
    pub from: String,
    /// Who is told of every run whose task has no `notify` of its own.
    #[serde(default)]
    pub to: Vec<String>,
    /// Whom a task may name beside these (`notify: ["mailto:ann@example.org"]`): addresses, or `*@example.org` for all of
    /// a domain.
    #[serde(default)]
    pub allow: Vec<String>,
    /// What the mails are written in.
    #[serde(default = "english")]
    pub language: Language,
}

fn english() -> Language {
    Language::En
}

/// How the way to a mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// It begins in the open and is encrypted before anything is said; a server that cannot is not used.
    #[default]
    Starttls,
    /// Encrypted from the first byte.
    Tls,
    /// Not at all: only for a server on this machine.
    None,
}

impl Smtp {
    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(match self.security {
            Security::Starttls => 587,
            Security::Tls => 465,
            Security::None => 25,
        })
    }

    /// Whether a task may have this address told.
    pub fn may_tell(&self, address: &str) -> bool {
        let same = |known: &String| known.eq_ignore_ascii_case(address);
        let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        let all_of = |known: &String| known.strip_prefix("*@").is_some_and(|all| all.eq_ignore_ascii_case(domain));
        self.to.iter().any(same) || self.allow.iter().any(|known| same(known) || all_of(known))
    }
}

/// Hours in which nothing rings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuietHours {
    /// When they begin: `22:00`.
    pub from: String,
    /// When they end: `07:30`; the next day, where this is before `from`.
    pub to: String,
    /// Whose hours: a zone like `Europe/Madrid`, or an offset like `+02:00`; those of this machine if not given.
    #[serde(default)]
    pub zone: Option<String>,
}

impl QuietHours {
    /// When the quiet hours end that hold at an instant; `None` where it is not quiet.
    pub fn until(&self, now: Timestamp) -> Option<Timestamp> {
        let (from, to) = (time(&self.from)?, time(&self.to)?);
        let now = jiff::Timestamp::from_millisecond(now.0).ok()?.to_zoned(self.zone()?);
        let clock = now.time();
        let over_midnight = from > to;
        let quiet = if over_midnight { clock >= from || clock < to } else { clock >= from && clock < to };
        let tomorrow = over_midnight && clock >= from;
        let date = if tomorrow { now.date().tomorrow().ok()? } else { now.date() };
        let end = date.to_datetime(to).to_zoned(now.time_zone().clone()).ok()?;
        quiet.then(|| Timestamp(end.timestamp().as_millisecond()))
    }

    fn zone(&self) -> Option<TimeZone> {
        match self.zone.as_deref() {
            None => Some(TimeZone::system()),
            Some("Z" | "UTC") => Some(TimeZone::UTC),
            Some(offset) if offset.starts_with(['+', '-']) => offset_of(offset),
            Some(name) => TimeZone::get(name).ok(),
        }
    }
}

/// `HH:MM`.
fn time(text: &str) -> Option<Time> {
    let (hours, minutes) = text.split_once(':')?;
    let digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(hours) || !digits(minutes) {
        return None;
    }
    Time::new(hours.parse().ok()?, minutes.parse().ok()?, 0, 0).ok()
}

/// `+HH:MM`.
fn offset_of(text: &str) -> Option<TimeZone> {
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let at = time(&text[1..])?;
    let seconds = i32::from(at.hour()) * 3600 + i32::from(at.minute()) * 60;
    Some(TimeZone::fixed(jiff::tz::Offset::from_seconds(sign * seconds).ok()?))
}

/// When what nobody answered is told again.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reminders {
    /// How long after it was told: `4h`; `never` for no reminder at all.
    pub after: String,
    /// How long after each reminder the next one comes: `1d`; `never` for one reminder only.
    pub every: String,
}

impl Default for Reminders {
    fn default() -> Self {
        Self { after: "4h".to_owned(), every: "1d".to_owned() }
    }
}

impl Reminders {
    /// After how many milliseconds the next reminder is due, when so many were sent; `None` for no more.
    pub fn next_ms(&self, sent: u32) -> Option<u64> {
        let first = parse_duration(&self.after)?;
        if sent == 0 { Some(first) } else { parse_duration(&self.every) }
    }
}

impl Config {
    /// What an entry of `notify` means here.
    ///
    /// # Errors
    /// Why nobody can be told by it, and what to do.
    pub fn target(&self, text: &str) -> Result<Target, (String, String)> {
        let refuse = |why: String, hint: &str| Err((why, hint.to_owned()));
        let shown = text.chars().take(80).collect::<String>();
        let cannot = format!("`notify` cannot tell `{}`", shown.escape_debug());
        let Some(target) = Target::read(text) else {
            let hint = match text.split(':').next().unwrap_or_default() {
                "telegram" => "write `telegram:CHAT` with the chat's number, like `telegram:123456`",
                "mailto" | "email" | "mail" | "smtp" => "write `mailto:ADDRESS`, like `mailto:ann@example.org`",
                "desktop" => {
                    "the desktop is told by the command that follows a run: set `notify: {desktop: true}` in devo.yaml"
                }
                "webhook" => "write `webhook` alone; its address is in devo.yaml",
                _ => "use `telegram:CHAT`, `mailto:ADDRESS` or `webhook`",
            };
            return refuse(cannot, hint);
        };
        match &target {
            Target::Webhook if self.notify.webhook.is_none() => {
                refuse(cannot, "set `notify: {webhook: {url: …, secret: …}}` in devo.yaml")
            }
            Target::Telegram(chat) => match &self.chat.telegram {
                Some(bot) if !bot.allow.contains(chat) && !bot.chats.contains(chat) => refuse(
                    format!("{cannot}: chat.telegram does not allow it"),
                    "add the id to `chat.telegram.allow` (a user) or `chat.telegram.chats` (a group) in devo.yaml",
                ),
                // Without a bot nobody is told, and whoever asks is warned: the task itself may come from another home.
                _ => Ok(target),
            },
            Target::Mail(address) => match &self.notify.smtp {
                None => refuse(cannot, "devo.yaml configures no mail server: set `notify: {smtp: {host: …, from: …}}`"),
                Some(smtp) if !smtp.may_tell(address) => refuse(
                    format!("{cannot}: notify.smtp does not allow it"),
                    "add the address, or `*@` and its domain, to `notify.smtp.allow` in devo.yaml",
                ),
                Some(_) => Ok(target),
            },
            Target::Webhook => Ok(target),
        }
    }
}

/// A mistake: where, a stable word, what, and what to do.
type Mistake = (String, &'static str, String, &'static str);

/// What the schema cannot say.
pub(super) fn check(notify: &Notify) -> Vec<Mistake> {
    let mut wrong = Vec::new();
    if let Some(webhook) = &notify.webhook {
        check_webhook(webhook, &mut wrong);
    }
    if let Some(smtp) = &notify.smtp {
        check_smtp(smtp, &mut wrong);
    }
    if let Some(hours) = &notify.quiet_hours {
        for (key, text) in [("from", &hours.from), ("to", &hours.to)] {
            if time(text).is_none() {
                let message = format!("`{}` is no time of day", text.escape_debug());
                wrong.push((
                    format!("/notify/quiet_hours/{key}"),
                    "wrong_value",
                    message,
                    "like `\"22:00\"`, in quotes",
                ));
            }
        }
        if time(&hours.from).is_some() && time(&hours.from) == time(&hours.to) {
            let message = "hours that end when they begin are none".to_owned();
            wrong.push(("/notify/quiet_hours/to".to_owned(), "wrong_value", message, "give another end"));
        }
        if hours.zone().is_none() {
            let message =
                format!("there is no time zone `{}` here", hours.zone.as_deref().unwrap_or("").escape_debug());
            let help = "like `Europe/Madrid` (the package `tzdata` has them), or an offset like `\"+02:00\"`";
            wrong.push(("/notify/quiet_hours/zone".to_owned(), "wrong_value", message, help));
        }
    }
    for (key, text) in [("after", &notify.reminders.after), ("every", &notify.reminders.every)] {
        if text != "never" && parse_duration(text).is_none() {
            let message = format!("`{}` is no duration", text.escape_debug());
            wrong.push((format!("/notify/reminders/{key}"), "bad_duration", message, "like `4h` or `1d`, or `never`"));
        }
    }
    wrong
}

fn check_webhook(webhook: &Webhook, wrong: &mut Vec<Mistake>) {
    let rest = webhook.url.strip_prefix("https://").or_else(|| webhook.url.strip_prefix("http://"));
    if rest.is_none_or(|rest| {
        rest.is_empty() || rest.starts_with('/') || rest.split('/').next().unwrap_or("").contains('@')
    }) {
        let message = "`url` must be like https://example.org/devo, without a user or password".to_owned();
        wrong.push((
            "/notify/webhook/url".to_owned(),
            "wrong_value",
            message,
            "the secret goes under `secret`, by name",
        ));
    }
    if !super::is_variable(&webhook.secret) {
        let message = "`secret` is the name of an environment variable, not the secret itself".to_owned();
        wrong.push(("/notify/webhook/secret".to_owned(), "bad_name", message, "like `secret: DEVO_WEBHOOK_SECRET`"));
    }
}

fn check_smtp(smtp: &Smtp, wrong: &mut Vec<Mistake>) {
    let mut fault = |key: &str, code, message: &str, help| {
        wrong.push((format!("/notify/smtp/{key}"), code, message.to_owned(), help));
    };
    let host = smtp.host.as_str();
    let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:".contains(&byte));
    if host.is_empty() || !plain {
        fault(
            "host",
            "bad_host",
            "this is no host",
            "the name alone, like `mail.example.org`; the port goes under `port`",
        );
    }
    let here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if smtp.security == Security::None && !here {
        let help = "use `starttls` or `tls`; `none` is for a server on this machine (`localhost`)";
        fault("security", "not_protected", "mail would go over the network for everybody to read", help);
    }
    match (&smtp.user, &smtp.password) {
        (Some(_), None) => fault("user", "wrong_value", "a user needs a `password`", "like `password: SMTP_PASSWORD`"),
        (None, Some(_)) => fault("password", "wrong_value", "a password needs a `user`", "add `user`"),
        _ => {}
    }
    // The value is not repeated: it may be the password that should not stand here.
    if smtp.password.as_ref().is_some_and(|name| !super::git::names_a_secret(name)) {
        let message = "`password` holds the NAME of a secret, in capitals, never the password";
        fault("password", "not_a_name", message, "like `password: SMTP_PASSWORD`, and set that variable");
    }
    let sender = smtp.from.rsplit_once('<').map_or(Some(smtp.from.as_str()), |(_, rest)| rest.strip_suffix('>'));
    if !sender.is_some_and(Target::is_address) || smtp.from.contains(|char: char| char.is_control()) {
        let help = "like `devo@example.org`, or `Devo <devo@example.org>`";
        fault("from", "bad_address", "this is no address", help);
    }
    for (key, list, wild) in [("to", &smtp.to, false), ("allow", &smtp.allow, true)] {
        for (at, address) in list.iter().enumerate() {
            let address = if wild {
                address.strip_prefix('*').map_or(address.clone(), |rest| format!("x{rest}"))
            } else {
                address.clone()
            };
            if !Target::is_address(&address) {
                let help = if wild { "like `ann@example.org` or `*@example.org`" } else { "like `ann@example.org`" };
                fault(&format!("{key}/{at}"), "bad_address", "this is no address", help);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::FILE;
    use super::*;

    fn read(notify: &str) -> Result<Config, Vec<String>> {
        Config::read(FILE, format!("notify: {notify}\nchat: {{telegram: {{allow: [5], chats: [-7]}}}}\n").as_bytes())
            .map_err(|wrong| {
                wrong.iter().map(|w| format!("{}:{} {} {}", w.line, w.column, w.code, w.message)).collect()
            })
    }

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    #[test]
    fn quiet_hours_end_on_the_clock_of_their_zone() {
        let hours = |from: &str, to: &str, zone: &str| QuietHours {
            from: from.to_owned(),
            to: to.to_owned(),
            zone: Some(zone.to_owned()),
        };
        let night = hours("22:00", "07:30", "+02:00");
        assert_eq!(night.until(at("2026-06-01T19:59:59Z")), None);
        assert_eq!(night.until(at("2026-06-01T20:00:00Z")), Some(at("2026-06-02T05:30:00Z")));
        assert_eq!(night.until(at("2026-06-02T05:29:59Z")), Some(at("2026-06-02T05:30:00Z")));
        assert_eq!(night.until(at("2026-06-02T05:30:00Z")), None);
        let noon = hours("12:00", "13:00", "UTC");
        assert_eq!(noon.until(at("2026-06-01T12:30:00Z")), Some(at("2026-06-01T13:00:00Z")));
        assert_eq!(noon.until(at("2026-06-01T13:00:00Z")), None);
        // The night in which Madrid's clocks go back has an hour more.
        let madrid = hours("22:00", "07:30", "Europe/Madrid");
        assert_eq!(madrid.until(at("2026-10-24T21:00:00Z")), Some(at("2026-10-25T06:30:00Z")));
    }

    #[test]
    fn reminders_come_once_and_then_at_a_slower_pace() {
        let usual = Reminders::default();
        assert_eq!((usual.next_ms(0), usual.next_ms(1)), (Some(4 * 3_600_000), Some(86_400_000)));
        let never = Reminders { after: "never".to_owned(), ..Reminders::default() };
        assert_eq!((never.next_ms(0), never.next_ms(3)), (None, None));
        let once = Reminders { every: "never".to_owned(), ..Reminders::default() };
        assert_eq!((once.next_ms(0).is_some(), once.next_ms(1)), (true, None));
    }

    #[test]
    fn only_whom_devo_yaml_allows_can_be_told() {
        let smtp =
            "{smtp: {host: mail.example.org, from: d@example.org, to: [team@example.org], allow: ['*@example.com']}}";
        let config = read(smtp).unwrap();
        for good in
            ["telegram:5", "telegram:-7", "mailto:team@example.org", "email:TEAM@example.org", "mailto:x@Example.com"]
        {
            assert!(config.target(good).is_ok(), "{good}");
        }
        for (bad, word) in [
            ("webhook", "webhook: {url"),
            ("telegram:6", "chat.telegram.allow"),
            ("telegram:ana", "CHAT"),
            ("mailto:eve@evil.example", "notify.smtp.allow"),
            ("mailto:x@sub.example.com", "notify.smtp.allow"),
            ("mailto:x@example.com\r\nBcc: y@z", "mailto:ADDRESS"),
            ("desktop", "desktop: true"),
            ("pigeon:5", "mailto:ADDRESS"),
        ] {
            let (why, hint) = config.target(bad).unwrap_err();
            assert!(hint.contains(word), "{bad}: {why} / {hint}");
        }
        let none = read("{}").unwrap();
        assert!(none.target("mailto:team@example.org").unwrap_err().1.contains("no mail server"));
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let wrong = read("{smtp: {host: mail.example.org, from: d@e, security: none, user: u}}").unwrap_err();
        assert!(wrong.iter().any(|wrong| wrong.contains("not_protected")), "{wrong:?}");
        assert!(wrong.iter().any(|wrong| wrong.contains("needs a `password`")), "{wrong:?}");
        let wrong =
            read("{smtp: {host: h, from: 'a b', user: u, password: hunter2, to: [x], allow: ['*']}}").unwrap_err();
        assert_eq!(wrong.len(), 4, "{wrong:?}");
        assert!(!wrong.iter().any(|wrong| wrong.contains("hunter2")), "{wrong:?}");
        for bad in [
            "{from: '25:00', to: '07:00'}",
            "{from: '22:00', to: '22:00'}",
            "{from: '22:00', to: '7', zone: UTC}",
            "{from: '22:00', to: '07:00', zone: Middle/Earth}",
        ] {
            assert!(read(&format!("{{quiet_hours: {bad}}}")).is_err(), "{bad}");
        }
        assert!(read("{reminders: {after: soon}}").unwrap_err()[0].contains("soon"));
        assert!(read("{smtp: {host: localhost, security: none, from: 'Devo <d@e.org>'}, reminders: {after: never}, desktop: true}").is_ok());
    }
}
