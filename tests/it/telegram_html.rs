//! Telegram's HTML, read as strictly as Telegram does: known tags only, properly nested, nothing left open.

const TAGS: &[&str] =
    &["b", "strong", "i", "em", "u", "ins", "s", "strike", "del", "code", "pre", "a", "blockquote", "tg-spoiler"];

/// The text that is seen, or Telegram's complaint.
pub fn parse(raw: &str) -> Result<String, String> {
    let (mut text, mut open, mut at) = (String::new(), Vec::<String>::new(), 0);
    while at < raw.len() {
        let rest = &raw[at..];
        if rest.starts_with('<') {
            let end = rest.find('>').ok_or_else(|| format!("Unclosed start tag at byte offset {at}"))?;
            let tag = &rest[1..end];
            if let Some(name) = tag.strip_prefix('/') {
                match open.pop() {
                    Some(opened) if opened == name => {}
                    Some(opened) => {
                        return Err(format!(
                            "Unmatched end tag at byte offset {at}, expected \"</{opened}>\", found \"</{name}>\""
                        ));
                    }
                    None => return Err(format!("Unexpected end tag at byte offset {at}")),
                }
            } else {
                let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
                if !TAGS.contains(&name) {
                    return Err(format!("Unsupported start tag \"{name}\" at byte offset {at}"));
                }
                let fine = match name {
                    "a" => {
                        attributes.starts_with("href=\"")
                            && attributes.ends_with('"')
                            && attributes.matches('"').count() == 2
                    }
                    "blockquote" => matches!(attributes, "" | "expandable"),
                    "code" => attributes.is_empty() || attributes.starts_with("class=\"language-"),
                    _ => attributes.is_empty(),
                };
                if !fine {
                    return Err(format!("Unexpected attribute in tag \"{name}\" at byte offset {at}"));
                }
                open.push(name.to_owned());
            }
            at += end + 1;
        } else if rest.starts_with('&') {
            let known = [("&lt;", '<'), ("&gt;", '>'), ("&amp;", '&'), ("&quot;", '"')];
            match known.iter().find(|(entity, _)| rest.starts_with(entity)) {
                Some((entity, char)) => {
                    text.push(*char);
                    at += entity.len();
                }
                // Telegram shows an unknown entity as it is.
                None => {
                    text.push('&');
                    at += 1;
                }
            }
        } else {
            let char = rest.chars().next().unwrap();
            text.push(char);
            at += char.len_utf8();
        }
    }
    match open.pop() {
        Some(tag) => Err(format!("Can't find end tag corresponding to start tag \"{tag}\"")),
        None => Ok(text),
    }
}

#[test]
fn the_fake_refuses_what_telegram_refuses() {
    assert_eq!(parse("a <b>b &lt;c&gt;</b> &amp;&quot;").unwrap(), "a b <c> &\"");
    assert_eq!(parse("<blockquote expandable>x</blockquote><a href=\"https://a.b/?x=&amp;\">y</a>").unwrap(), "xy");
    for bad in ["<x>y</x>", "<b>y", "y</b>", "<b><i>y</b></i>", "a < b", "<a href=x>y</a>", "<b class=\"x\">y</b>"] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}
