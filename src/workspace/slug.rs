//! A title as a short name: lower-case ASCII words joined by dashes. Knows nothing of branches.

/// The longest slug, in bytes.
const LONGEST: usize = 40;

/// Words of `[a-z0-9]` joined by single dashes, 40 bytes at most, cut at a word where that loses little; empty where the
/// title has no letter that can be written in ASCII.
pub fn slug(title: &str) -> String {
    let mut out = String::new();
    let mut gap = false;
    for c in title.chars() {
        // An accent that stands by itself belongs to the letter before it.
        if ('\u{300}'..='\u{36f}').contains(&c) {
            continue;
        }
        let mut single = [0_u8; 4];
        let plain = match c {
            'a'..='z' | '0'..='9' => c.encode_utf8(&mut single),
            'A'..='Z' => {
                let lower = c.to_ascii_lowercase();
                lower.encode_utf8(&mut single)
            }
            _ => plain(c),
        };
        if plain.is_empty() {
            gap = true;
            continue;
        }
        if gap && !out.is_empty() {
            out.push('-');
        }
        gap = false;
        out.push_str(plain);
        if out.len() > 2 * LONGEST {
            break;
        }
    }
    if out.len() > LONGEST {
        let whole_word = out.as_bytes()[LONGEST] == b'-';
        out.truncate(LONGEST);
        if !whole_word && let Some(dash) = out.rfind('-').filter(|dash| *dash >= LONGEST / 2) {
            out.truncate(dash);
        }
    }
    out
}

fn plain(c: char) -> &'static str {
    match c {
        'á' | 'à' | 'â' | 'ä' | 'ã' | 'å' | 'ā' | 'ă' | 'ą' | 'Á' | 'À' | 'Â' | 'Ä' | 'Ã' | 'Å' | 'Ā' | 'Ă' | 'Ą'
        | 'ª' => "a",
        'ç' | 'ć' | 'č' | 'Ç' | 'Ć' | 'Č' => "c",
        'ď' | 'đ' | 'ð' | 'Ď' | 'Đ' | 'Ð' => "d",
        'é' | 'è' | 'ê' | 'ë' | 'ē' | 'ę' | 'ě' | 'É' | 'È' | 'Ê' | 'Ë' | 'Ē' | 'Ę' | 'Ě' => "e",
        'ğ' | 'Ğ' => "g",
        'í' | 'ì' | 'î' | 'ï' | 'ī' | 'ı' | 'Í' | 'Ì' | 'Î' | 'Ï' | 'Ī' | 'İ' => "i",
        'ł' | 'ľ' | 'Ł' | 'Ľ' => "l",
        'ñ' | 'ń' | 'ň' | 'Ñ' | 'Ń' | 'Ň' => "n",
        'ó' | 'ò' | 'ô' | 'ö' | 'õ' | 'ø' | 'ō' | 'ő' | 'Ó' | 'Ò' | 'Ô' | 'Ö' | 'Õ' | 'Ø' | 'Ō' | 'Ő' | 'º' => {
            "o"
        }
        'ř' | 'Ř' => "r",
        'ś' | 'š' | 'ş' | 'ș' | 'Ś' | 'Š' | 'Ş' | 'Ș' => "s",
        'ť' | 'ț' | 'Ť' | 'Ț' => "t",
        'ú' | 'ù' | 'û' | 'ü' | 'ū' | 'ů' | 'ű' | 'Ú' | 'Ù' | 'Û' | 'Ü' | 'Ū' | 'Ů' | 'Ű' => "u",
        'ý' | 'ÿ' | 'Ý' => "y",
        'ź' | 'ż' | 'ž' | 'Ź' | 'Ż' | 'Ž' => "z",
        'ß' | 'ẞ' => "ss",
        'æ' | 'Æ' => "ae",
        'œ' | 'Œ' => "oe",
        'þ' | 'Þ' => "th",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_become_plain_words() {
        for (title, wanted) in [
            ("Validar stock negativo en ventas", "validar-stock-negativo-en-ventas"),
            ("¡Añadir código de cigüeña, ya!", "anadir-codigo-de-ciguena-ya"),
            ("ACCIÓN n\u{303}u\u{301}", "accion-nu"),
            ("  --fix: `rm -rf /`; $(x)\u{3000}main ", "fix-rm-rf-x-main"),
            ("日本語", ""),
            ("v2.0/β release", "v2-0-release"),
            ("Straße Œuvre", "strasse-oeuvre"),
            ("Revisar la integración con proveedores externos", "revisar-la-integracion-con-proveedores"),
            ("aaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbbbbb c", "aaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbbbbb"),
        ] {
            assert_eq!(slug(title), wanted, "{title}");
        }
        assert_eq!(slug(&"x".repeat(10_000)), "x".repeat(LONGEST));
    }

    proptest::proptest! {
        #[test]
        fn any_text_gives_a_clean_slug(title in ".{0,200}") {
            let slug = slug(&title);
            proptest::prop_assert!(slug.len() <= LONGEST);
            proptest::prop_assert!(!slug.starts_with('-') && !slug.ends_with('-') && !slug.contains("--"));
            proptest::prop_assert!(slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
        }
    }
}
