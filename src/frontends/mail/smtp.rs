//! One mail over SMTP. It does not know what it says.
//!
//! Every mail has a connection of its own: there are few, and none waits for a server to forget an old one.

use std::fmt;
use std::time::Duration;

use lettre::address::{Address, Envelope};
use lettre::message::header::{ContentType, Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use secrecy::{ExposeSecret as _, SecretString};

use super::letter::Letter;
use crate::config::{Security, Smtp};
use crate::core::failure::chain;
use crate::error::Error;
use crate::frontends::plain::line;
use crate::frontends::ringer::Answer;

/// How long the way to the server may take.
const CONNECT: Duration = Duration::from_secs(15);
/// How long a look at the server may take.
const PROBE: Duration = Duration::from_secs(10);
/// How long everything together may take; servers that scan take their time at the end.
const PATIENCE: Duration = Duration::from_secs(120);
/// When a server that refuses the user is asked again: often enough to notice a mended password, too rarely to lock it out.
const REFUSED: Duration = Duration::from_secs(600);

/// A way to the mail server.
pub struct Post {
    host: String,
    port: u16,
    security: Security,
    login: Option<(String, SecretString)>,
    from: Mailbox,
}

impl fmt::Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mail server {}:{}", self.host, self.port)
    }
}

/// `Auto-Submitted` (RFC 3834): nobody's absence note answers.
#[derive(Debug, Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

/// Where a failure happened, which says what it means.
enum Failed {
    /// On the way to the server, or with our own name there.
    Way(lettre::transport::smtp::Error),
    /// The server refuses the user.
    Login(lettre::transport::smtp::Error),
    /// The server refuses the receiver.
    Receiver(lettre::transport::smtp::Error),
    /// The server refuses the mail, before or after it was written.
    Content(lettre::transport::smtp::Error),
}

impl Post {
    /// For the server of devo.yaml.
    ///
    /// # Errors
    /// The sender is no address.
    pub fn new(smtp: &Smtp, password: Option<SecretString>) -> Result<Self, Error> {
        // Another part may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let from = smtp.from.parse::<Mailbox>().map_err(|error| {
            Error::refused("mail", format!("notify.smtp.from is no address: {error}"))
                .hint("like `devo@example.org`, or `Devo <devo@example.org>`")
        })?;
        let login = smtp.user.clone().zip(password);
        Ok(Self { host: smtp.host.clone(), port: smtp.port(), security: smtp.security, login, from })
    }

    /// Connects and signs in, and goes away again.
    ///
    /// # Errors
    /// Why that cannot be done.
    pub async fn probe(&self) -> Result<(), String> {
        let open = async {
            let mut connection = self.open().await?;
            // It has said what was to be known.
            let _ = connection.quit().await;
            Ok(())
        };
        match tokio::time::timeout(PROBE, open).await {
            Ok(opened) => opened.map_err(|failed| match failed {
                Failed::Login(error) => format!("it refuses the user or the password: {}", told(&error)),
                Failed::Way(error) | Failed::Receiver(error) | Failed::Content(error) => told(&error),
            }),
            Err(_) => Err("it does not answer".to_owned()),
        }
    }

    /// Sends a mail to one receiver.
    pub async fn send(&self, letter: &Letter, to: &str) -> Answer {
        let (envelope, bytes) = match self.put_together(letter, to) {
            Ok(mail) => mail,
            Err(why) => return Answer::TurnedDown(why),
        };
        // Once the content is on its way, silence does not mean that it did not arrive.
        let mut written = false;
        let sent = tokio::time::timeout(PATIENCE, self.deliver(&envelope, &bytes, &mut written)).await;
        let away = |why: String, unsure: bool, after: Option<Duration>| Answer::Away { why, unsure, after };
        match sent {
            Err(_) => away("the mail server does not answer".to_owned(), written, None),
            Ok(Ok(())) => Answer::Taken,
            Ok(Err(Failed::Way(error))) => {
                // A sender or a way that is refused for good is a setting to be mended, and no fault of this mail.
                let after = error.is_permanent().then_some(REFUSED);
                away(told(&error), written, after)
            }
            Ok(Err(Failed::Login(error))) => {
                let why = format!("the mail server refuses the user or the password: {}", told(&error));
                away(why, false, error.is_permanent().then_some(REFUSED))
            }
            Ok(Err(Failed::Receiver(error) | Failed::Content(error))) if error.is_permanent() => {
                Answer::TurnedDown(told(&error))
            }
            Ok(Err(Failed::Receiver(error) | Failed::Content(error))) if error.is_transient() && !closes(&error) => {
                Answer::Later(told(&error))
            }
            Ok(Err(Failed::Receiver(error) | Failed::Content(error))) => {
                // An answer of the server's is certain.
                let unsure = written && error.status().is_none();
                away(told(&error), unsure, None)
            }
        }
    }

    fn put_together(&self, letter: &Letter, to: &str) -> Result<(Envelope, Vec<u8>), String> {
        let to: Address = to.parse().map_err(|error| format!("`{}` is no address: {error}", to.escape_debug()))?;
        let domain = self.from.email.domain();
        let id = |local: &str| format!("<{local}@{domain}>");
        let message = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to.clone()))
            .subject(letter.subject.clone())
            .message_id(Some(id(&letter.id)))
            .in_reply_to(id(&letter.thread))
            .references(id(&letter.thread))
            .date_now()
            .header(AutoSubmitted)
            .header(ContentType::TEXT_PLAIN)
            .body(letter.text.clone())
            .map_err(|error| format!("the mail cannot be written: {error}"))?;
        let envelope = Envelope::new(Some(self.from.email.clone()), vec![to]).map_err(|error| error.to_string())?;
        Ok((envelope, message.formatted()))
    }

    async fn open(&self) -> Result<AsyncSmtpConnection, Failed> {
        let name = ClientId::default();
        let tls = || TlsParameters::new(self.host.clone()).map_err(Failed::Way);
        let whole = if self.security == Security::Tls { Some(tls()?) } else { None };
        let server = (self.host.as_str(), self.port);
        let connected = AsyncSmtpConnection::connect_tokio1(server, Some(CONNECT), &name, whole, None).await;
        let mut connection = connected.map_err(Failed::Way)?;
        if self.security == Security::Starttls {
            // Fails where the server does not offer it: nothing falls back to less.
            connection.starttls(tls()?, &name).await.map_err(Failed::Way)?;
        }
        if let Some((user, password)) = &self.login {
            let credentials = Credentials::new(user.clone(), password.expose_secret().to_owned());
            connection.auth(&[Mechanism::Plain, Mechanism::Login], &credentials).await.map_err(Failed::Login)?;
        }
        Ok(connection)
    }

    async fn deliver(&self, envelope: &Envelope, bytes: &[u8], written: &mut bool) -> Result<(), Failed> {
        let mut connection = self.open().await?;
        let done = Self::transact(&mut connection, envelope, bytes, written).await;
        match &done {
            // The mail is the server's now, whatever it says to a farewell.
            Ok(()) => drop(tokio::time::timeout(CONNECT, connection.quit()).await),
            Err(_) => drop(tokio::time::timeout(CONNECT, connection.abort()).await),
        }
        done
    }

    async fn transact(
        connection: &mut AsyncSmtpConnection,
        envelope: &Envelope,
        bytes: &[u8],
        written: &mut bool,
    ) -> Result<(), Failed> {
        connection.command(Mail::new(envelope.from().cloned(), vec![])).await.map_err(Failed::Way)?;
        for to in envelope.to() {
            connection.command(Rcpt::new(to.clone(), vec![])).await.map_err(Failed::Receiver)?;
        }
        connection.command(Data).await.map_err(Failed::Content)?;
        *written = true;
        connection.message(bytes).await.map_err(Failed::Content)?;
        Ok(())
    }
}

/// The server closes the channel (421), which is about everybody.
fn closes(error: &lettre::transport::smtp::Error) -> bool {
    error.status().is_some_and(|code| code.to_string() == "421")
}

/// An error with its causes on one line. The password is in none: it is sent and never echoed.
fn told(error: &lettre::transport::smtp::Error) -> String {
    line(&chain(error), 300)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Language;

    fn post() -> Post {
        let smtp = Smtp {
            host: "mail.example.org".to_owned(),
            port: None,
            security: Security::Starttls,
            user: Some("devo".to_owned()),
            password: None,
            from: "Devo <devo@example.org>".to_owned(),
            to: vec![],
            allow: vec![],
            language: Language::En,
        };
        Post::new(&smtp, Some("hunter2-hunter2".to_owned().into())).unwrap()
    }

    #[test]
    fn a_mail_has_its_headers_and_no_other() {
        let letter = Letter {
            subject: "[devo] ¿Más?\r\nBcc: eve@evil.example".to_owned(),
            text: "Línea\r\n.\r\nQUIT\n".to_owned(),
            id: "run.7".to_owned(),
            thread: "run".to_owned(),
        };
        let (envelope, bytes) = post().put_together(&letter, "ann@example.org").unwrap();
        assert_eq!(envelope.to().len(), 1);
        let text = String::from_utf8(bytes).unwrap();
        let (head, _) = text.split_once("\r\n\r\n").unwrap();
        for wanted in [
            "Message-ID: <run.7@example.org>",
            "References: <run@example.org>",
            "Auto-Submitted: auto-generated",
            "To: ann@example.org",
            "From: Devo <devo@example.org>",
            "Content-Type: text/plain; charset=utf-8",
        ] {
            assert!(head.lines().any(|line| line == wanted), "{wanted}: {head}");
        }
        assert!(!head.lines().any(|line| line.starts_with("Bcc")), "{head}");
        assert!(text.is_ascii(), "whatever the server can do, it can take this");
        assert!(post().put_together(&letter, "a@b>\r\nRCPT TO:<c@d").is_err());
        assert!(!format!("{:?}", post()).contains("hunter2"));
    }
}
