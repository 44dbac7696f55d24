//! What channels say to people, in English and Spanish. One line per text, both languages side by side, so that neither can
//! be forgotten. It does not know where a text is shown.

use serde::Serialize;

/// A language that people are spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lang {
    /// English.
    #[default]
    En,
    /// Spanish.
    Es,
}

impl Lang {
    /// The language of a tag like `es`, `es-MX` or `en-GB`; `None` for any other language.
    pub fn of_tag(tag: &str) -> Option<Self> {
        match tag.split(['-', '_']).next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "en" => Some(Self::En),
            "es" => Some(Self::Es),
            _ => None,
        }
    }

    /// The first language of ours in an `Accept-Language` header, by its weights; English if there is none.
    pub fn accepted(header: &str) -> Self {
        let mut best = (0.0, Self::default());
        for part in header.split(',') {
            let mut pieces = part.split(';');
            let Some(lang) = Self::of_tag(pieces.next().unwrap_or_default()) else { continue };
            let weight = pieces.find_map(|piece| piece.trim().strip_prefix("q="));
            let weight = weight.map_or(1.0, |weight| weight.parse::<f32>().unwrap_or(0.0));
            if weight > best.0 {
                best = (weight, lang);
            }
        }
        best.1
    }

    /// Its tag.
    pub fn tag(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Es => "es",
        }
    }

    /// Its texts.
    pub fn words(self) -> &'static Words {
        match self {
            Self::En => &ENGLISH,
            Self::Es => &SPANISH,
        }
    }
}

/// Puts values where a text has `{name}`; a value is never looked at again.
pub fn fill(text: &str, values: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let Some(close) = rest[open..].find('}').map(|close| open + close) else { break };
        out.push_str(&rest[..open]);
        let name = &rest[open + 1..close];
        match values.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => out.push_str(value),
            None => out.push_str(&rest[open..=close]),
        }
        rest = &rest[close + 1..];
    }
    out.push_str(rest);
    out
}

macro_rules! words {
    ($($key:ident: $english:literal, $spanish:literal;)*) => {
        /// Every text, by its name.
        #[derive(Debug, Serialize)]
        pub struct Words {
            $(#[doc = $english] pub $key: &'static str,)*
        }

        const ENGLISH: Words = Words { $($key: $english,)* };
        const SPANISH: Words = Words { $($key: $spanish,)* };
    };
}

words! {
    // How a run stands.
    status_queued: "queued", "en cola";
    status_planning: "planning", "planificando";
    status_planned: "plan ready", "plan listo";
    status_executing: "working", "trabajando";
    status_completed: "done", "terminado";
    status_failed: "failed", "falló";
    status_aborted: "stopped", "detenido";

    // What a person can do.
    approve: "Approve", "Aprobar";
    approve_revision: "Approve revision {n}", "Aprobar la revisión {n}";
    revise: "Revise", "Corregir";
    reject: "Reject", "Rechazar";
    answer: "Answer", "Responder";
    abort: "Abort", "Abortar";
    retry: "Retry", "Reintentar";
    open: "Open", "Abrir";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_browsers_preference_decides() {
        assert_eq!(Lang::accepted("es-ES,es;q=0.9,en;q=0.8"), Lang::Es);
        assert_eq!(Lang::accepted("de,en-GB;q=0.7,es;q=0.3"), Lang::En);
        assert_eq!(Lang::accepted("fr;q=1, es;q=0.2"), Lang::Es);
        assert_eq!(Lang::accepted("es;q=x"), Lang::En);
        assert_eq!(Lang::accepted(""), Lang::En);
    }

    #[test]
    fn values_are_put_in_once() {
        assert_eq!(fill("a {n} b {m}", &[("n", "{m}"), ("m", "2")]), "a {m} b 2");
        assert_eq!(fill("open { and {other}", &[]), "open { and {other}");
    }

    #[test]
    fn no_text_is_empty_and_both_languages_fill_the_same_names() {
        let names = |text: &str| {
            let mut found: Vec<String> =
                text.split('{').skip(1).filter_map(|part| Some(part.split_once('}')?.0.to_owned())).collect();
            found.sort();
            found
        };
        let english = serde_json::to_value(&ENGLISH).unwrap();
        let spanish = serde_json::to_value(&SPANISH).unwrap();
        for (key, text) in english.as_object().unwrap() {
            let (english, spanish) = (text.as_str().unwrap(), spanish[key].as_str().unwrap());
            assert!(!english.is_empty() && !spanish.is_empty(), "{key}");
            assert_eq!(names(english), names(spanish), "{key}");
        }
    }
}
