//! Text for Telegram, built twice at once: as its HTML, and plain for when the HTML is refused. Counts what its limits count:
//! UTF-16 units of what is seen. It does not know what the text says.

use serde::{Deserialize, Serialize};

pub use crate::frontends::plain::{clean, clip, line, units};
use crate::secrets::printable;

/// The longest message, in UTF-16 units of what is seen.
pub const MESSAGE_MAX: usize = 4096;

/// A text in both forms.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Html {
    /// With tags, everything else escaped.
    pub html: String,
    /// As it is seen.
    pub plain: String,
}

fn escape(out: &mut String, text: &str) {
    for char in text.chars() {
        match char {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            char => out.push(char),
        }
    }
}

impl Html {
    /// Plain text.
    pub fn of(text: &str) -> Self {
        Self::default().text(text)
    }

    fn tagged(mut self, open: &str, text: &str, close: &str) -> Self {
        let text =
            text.lines().map(printable).collect::<Vec<_>>().join("\n") + if text.ends_with('\n') { "\n" } else { "" };
        if text.is_empty() {
            return self;
        }
        self.html.push_str(open);
        escape(&mut self.html, &text);
        self.html.push_str(close);
        self.plain.push_str(&text);
        self
    }

    /// Adds text.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.tagged("", text, "")
    }

    /// Adds bold text.
    #[must_use]
    pub fn bold(self, text: &str) -> Self {
        self.tagged("<b>", text, "</b>")
    }

    /// Adds text of fixed width, for names.
    #[must_use]
    pub fn code(self, text: &str) -> Self {
        self.tagged("<code>", text, "</code>")
    }

    /// Adds a link, or only its text where the address is none that Telegram opens.
    #[must_use]
    pub fn link(mut self, text: &str, url: &str) -> Self {
        if !opens(url) {
            return self.text(text);
        }
        self.html.push_str("<a href=\"");
        escape(&mut self.html, url);
        self.html.push_str("\">");
        let mut this = self.tagged("", text, "</a>");
        this.plain.push(' ');
        this.plain.push_str(&printable(url));
        this
    }

    /// Adds a quote that is folded until somebody opens it.
    #[must_use]
    pub fn quote(self, text: &str) -> Self {
        self.tagged("<blockquote expandable>", text, "</blockquote>")
    }

    /// Adds a line break.
    #[must_use]
    pub fn nl(mut self) -> Self {
        self.html.push('\n');
        self.plain.push('\n');
        self
    }

    /// Adds another text.
    #[must_use]
    pub fn add(mut self, other: &Self) -> Self {
        self.html.push_str(&other.html);
        self.plain.push_str(&other.plain);
        self
    }

    /// Units that a message still has room for.
    pub fn room(&self) -> usize {
        MESSAGE_MAX.saturating_sub(units(&self.plain))
    }
}

/// Whether Telegram makes a link of it.
pub fn opens(url: &str) -> bool {
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    host.is_some_and(|host| host.split('/').next().is_some_and(|host| host.contains('.') && !host.starts_with("127.")))
        && !url.contains(|char: char| char.is_whitespace() || char.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_stays_text_in_both_forms() {
        let text =
            Html::of("a<b>&\"\u{1b}[31m\u{202e}x").bold("<i>").nl().quote("</blockquote><a href='x'>").code("`&amp;`");
        assert_eq!(
            text.html,
            "a&lt;b&gt;&amp;&quot;x<b>&lt;i&gt;</b>\n<blockquote expandable>&lt;/blockquote&gt;&lt;a href='x'&gt;</blockquote>\
             <code>`&amp;amp;`</code>"
        );
        assert_eq!(text.plain, "a<b>&\"x<i>\n</blockquote><a href='x'>`&amp;`");
        assert_eq!(Html::of("a").bold("").html, "a", "no empty tags");
    }

    #[test]
    fn cuts_count_utf_16_and_split_no_character() {
        assert_eq!(units("a😀ñ"), 4);
        assert_eq!(clip("😀😀😀", 6), "😀😀😀");
        assert_eq!(clip("😀😀😀", 5), "😀😀…");
        assert_eq!(clip("😀😀😀", 4), "😀…");
        assert_eq!(clip("abc", 0), "…");
        assert_eq!(line("\n  \n first\tline \nsecond", 40), "first    line");
        let full = Html::of(&clip(&"<".repeat(5000), MESSAGE_MAX));
        assert_eq!((units(&full.plain), full.room()), (4096, 0));
    }

    #[test]
    fn only_addresses_become_links() {
        assert!(opens("https://git.acme.com/x/compare/a...b?expand=1"));
        for bad in [
            "/srv/git/shop.git",
            "javascript:alert(1)",
            "https://localhost/x",
            "http://127.0.0.1:7333/",
            "https://a.b/ c",
        ] {
            assert!(!opens(bad), "{bad}");
        }
        assert_eq!(
            Html::default().link("see", "https://a.b/?x=\"<").html,
            "<a href=\"https://a.b/?x=&quot;&lt;\">see</a>"
        );
        assert_eq!(Html::default().link("see", "file:///x").html, "see");
    }
}
