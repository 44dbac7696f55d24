use proptest::prelude::*;

use super::*;

fn done(text: &str, old: &str, new: &str) -> (String, Rung) {
    let applied = replace(text, old, new, false).unwrap_or_else(|e| panic!("{e}"));
    (applied.text, applied.rung)
}

#[track_caller]
fn gives(text: &str, old: &str, new: &str, wanted: &str, rung: Rung) {
    assert_eq!(done(text, old, new), (wanted.to_owned(), rung));
}

#[test]
fn exact() {
    gives("a\nb\nc\n", "b", "x", "a\nx\nc\n", Rung::Exact);
    gives("naïve €5 日本\n", "€5 日", "£4 日", "naïve £4 日本\n", Rung::Exact);
    gives("a b c", "b c", "d", "a d", Rung::Exact);
    gives("a\nb\n", "b\n", "", "a\n", Rung::Exact);
    // The final newline is not lost with the last line's text.
    gives("a\n}\n", "}\n", "})", "a\n})\n", Rung::Exact);
}

#[test]
fn line_ends_are_the_files_own() {
    gives("a\r\nb\r\nc\r\n", "a\nb", "x\ny\nz", "x\r\ny\r\nz\r\nc\r\n", Rung::LineEnds);
    gives("a\r\nb\r\nc\r\n", "b", "x\ny", "a\r\nx\r\ny\r\nc\r\n", Rung::Exact);
    gives("a\nb\n", "a\r\nb\r\n", "x\r\ny\r\n", "x\ny\n", Rung::LineEnds);
    gives("a\nb\r\nc\nd\n", "b\nc", "x\ny", "a\nx\r\ny\nd\n", Rung::LineEnds);
    gives("a\r\nb", "b", "c\nd", "a\r\nc\r\nd", Rung::Exact);
}

#[test]
fn blanks_at_line_ends() {
    gives(
        "if x:  \n    go()\t\nend\n",
        "if x:\n    go()\n",
        "if y:\n    go()\n",
        "if y:\n    go()\nend\n",
        Rung::TrailingSpace,
    );
    gives("a\nb\n", "a  \nb  ", "c", "c\n", Rung::TrailingSpace);
    gives("a  \nb\nc\n", "a\nb\n", "", "c\n", Rung::TrailingSpace);
}

#[test]
fn indentation_shifts_as_a_block() {
    let text = "class A:\n    def f(self):\n        if x:\n            go()\n        return 1\n";
    gives(
        text,
        "def f(self):\n    if x:\n        go()\n",
        "def f(self):\n    if y:\n        go()\n        more()\n",
        "class A:\n    def f(self):\n        if y:\n            go()\n            more()\n        return 1\n",
        Rung::Indentation,
    );
    // Too deep in the old text, and a new line that is less indented than all of it.
    gives(
        "fn a() {\n  b();\n  c();\n}\n",
        "      b();\n      c();",
        "      b();\n    }\n      d();",
        "fn a() {\n  b();\n}\n  d();\n}\n",
        Rung::Indentation,
    );
    // One level of tabs against spaces, blank line in between.
    gives(
        "f {\n\ta\n\n\tb\n}\n",
        "    a\n\n    b\n",
        "    a\n\n    if c\n        d\n",
        "f {\n\ta\n\n\tif c\n\t\td\n}\n",
        Rung::Indentation,
    );
}

#[test]
fn inner_blanks_and_tabs_against_spaces() {
    gives("x  =   1\ny = 2\n", "x = 1\n", "x = 3\n", "x = 3\ny = 2\n", Rung::InnerSpace);
    gives(
        "func f() {\n\tif a {\n\t\tb()\n\t}\n}\n",
        "    if a {\n        b()\n    }\n",
        "    if a {\n        b()\n        c()\n    }\n",
        "func f() {\n\tif a {\n\t\tb()\n\t\tc()\n\t}\n}\n",
        Rung::InnerSpace,
    );
}

#[test]
fn one_level_of_escapes() {
    gives(
        "say(\"hi\")\nend\n",
        "say(\\\"hi\\\")\\nend",
        "say(\\\"ho\\\")\\nend",
        "say(\"ho\")\nend\n",
        Rung::Unescaped,
    );
    // The literal text wins where it is there.
    gives("a = \"\\n\"\n", "\"\\n\"", "\"\\t\"", "a = \"\\t\"\n", Rung::Exact);
}

#[test]
fn copied_line_numbers_go() {
    let applied = replace("fn a() {\n    b();\n}\n", "1: fn a() {\n2:     b();\n", "1: fn a() {\n2:     c();\n", false)
        .expect("done");
    assert_eq!((applied.text.as_str(), applied.numbers_removed), ("fn a() {\n    c();\n}\n", true));
    let applied = replace("a\n  b\nc\n", "  2\t  b", "  x", false).expect("done");
    assert_eq!(applied.text, "a\n  x\nc\n");
    // Half-numbered or jumping numbers are no listing.
    assert!(replace("a\nb\n", "1: a\n7: b", "c", false).is_err());
    assert!(replace("a\nb\n", "1: a\n2: b", "1: c\nd", false).is_err());
    // A file that really has them is edited literally.
    gives("1: one\n2: two\n", "2: two", "2: zwei", "1: one\n2: zwei\n", Rung::Exact);
}

#[test]
fn two_places_are_never_chosen_between() {
    let refused = |text: &str, old: &str, at: &[usize], at_rung: Rung| match replace(text, old, "new", false) {
        Err(EditError::Ambiguous { lines, rung, .. }) => assert_eq!((lines.as_slice(), rung), (at, at_rung)),
        other => panic!("{other:?}"),
    };
    refused("x\na\nx\n", "x", &[1, 3], Rung::Exact);
    refused("aaa", "aa", &[1, 1], Rung::Exact);
    refused("a\r\nb\r\na\r\nb\r\n", "a\nb", &[1, 3], Rung::LineEnds);
    refused("a \nb\na  \nb\n", "a\nb", &[1, 3], Rung::TrailingSpace);
    refused("  a\n  b\n    a\n    b\n", "a\nb", &[1, 3], Rung::Indentation);
    refused("a  b\nx\na   b\n", "a b", &[1, 3], Rung::InnerSpace);
    refused("say(\"a\"); say(\"a\")\n", "say(\\\"a\\\")", &[1, 1], Rung::Unescaped);
    let many = "x\n".repeat(50);
    let error = replace(&many, "x", "y", false).expect_err("refused").to_string();
    assert!(error.contains("more than 10 places") && error.len() < 400, "{error}");
    let all = replace(&many, "x", "y\ny", true).expect("done");
    assert_eq!((all.text, all.places.len()), ("y\ny\n".repeat(50), 50));
    assert_eq!((all.places[0], all.places[49]), ((1, 2), (99, 100)));
    // A tolerant match is never multiplied.
    assert!(matches!(replace("a  b\na   b\n", "a b", "c", true), Err(EditError::Ambiguous { .. })));
}

#[test]
fn refusals_carry_what_is_needed() {
    assert_eq!(replace("a", "", "b", false), Err(EditError::Empty));
    assert_eq!(replace("a\n", "a", "a", false), Err(EditError::Equal));
    assert_eq!(replace("a\r\nb", "a\nb", "a\r\nb", false), Err(EditError::Equal));
    let error = replace("a\nb\n", "a\nb", "a\n# ... rest unchanged ...\n", false).expect_err("refused");
    assert!(matches!(&error, EditError::Placeholder { line } if line == "# ... rest unchanged ..."));
    let text: String = (1..=200).map(|i| format!("def handler_{i}(request):\n    return {i}\n")).collect();
    let error = replace(&text, "def handler_77(req):\n    return 78\n", "x", false).expect_err("refused").to_string();
    assert!(error.contains("def handler_77(request):") && error.len() <= 2048, "{error}");
    let wide = format!("start {}\n", "é".repeat(5000));
    assert!(replace(&wide, "start over", "x", false).expect_err("refused").to_string().len() <= 2048);
}

#[test]
fn the_report_shows_the_new_lines() {
    let text: String = (1..=100).map(|i| format!("line {i}\n")).collect();
    let report = replace(&text, "line 50\n", "new a\nnew b\n", false).expect("done").report("src/x.py");
    assert!(report.starts_with("edited src/x.py, now lines 50-51\nfrom line 45:\nline 45\n"), "{report}");
    assert!(report.ends_with("line 55\n"), "{report}");
    let long = replace(&text, "line 50", &"wide ".repeat(10_000), false).expect("done").report("x");
    assert!(long.len() <= 1536, "{}", long.len());
    let tolerant = replace("a  \nb\n", "a\nb\n", "c\nb\n", false).expect("done").report("x");
    assert!(tolerant.contains("blanks at line ends ignored"));
}

/// Work grows with the file, not with its square: a file of one repeated line is the worst case for window matching.
#[test]
fn a_large_monotonous_file_is_linear() {
    let text = "x = 1\n".repeat(170_000);
    let old = "x = 1 \n".repeat(5_000) + "y\n";
    assert!(matches!(replace(&text, &old, "z", false), Err(EditError::NotFound { .. })));
    let middle = format!("{text}unique\n{text}");
    let applied = replace(&middle, "unique", "changed", false).expect("done");
    assert_eq!(applied.places, [(170_001, 170_001)]);
}

fn line() -> impl Strategy<Value = String> {
    proptest::string::string_regex("[ \t]{0,4}[a-cé{}\"\\\\]{0,4}[ \t]{0,2}").expect("a pattern")
}

fn file(end: &'static str) -> impl Strategy<Value = String> {
    (proptest::collection::vec(line(), 1..12), any::<bool>())
        .prop_map(move |(lines, last)| lines.join(end) + if last { end } else { "" })
}

proptest! {
    #[test]
    fn an_exact_unique_place_is_the_only_change(text in file("\n"), a in 0usize..80, b in 0usize..80, new in "[xyz\n]{0,6}") {
        let (a, b) = (floor_char_boundary(&text, a.min(text.len())), floor_char_boundary(&text, b.min(text.len())));
        let (a, b) = (a.min(b), a.max(b));
        let old = &text[a..b];
        if old.is_empty() || old == new || literal(&text, old, false).len() != 1 {
            return Ok(());
        }
        let mut wanted = format!("{}{new}{}", &text[..a], &text[b..]);
        if text.ends_with('\n') && !wanted.ends_with('\n') && !wanted.is_empty() {
            wanted.push('\n');
        }
        match replace(&text, old, &new, false) {
            Ok(applied) => {
                prop_assert_eq!(&applied.text, &wanted);
                prop_assert_eq!(applied.rung, Rung::Exact);
            }
            Err(EditError::Equal) => prop_assert_eq!(&wanted, &text),
            Err(other) => prop_assert!(false, "{:?}", other),
        }
    }

    /// Whatever the rung, one block of whole lines (or one literal place) changes and all around it stays.
    #[test]
    fn any_edit_changes_one_place(text in file("\n"), old in file("\n")) {
        if let Ok(applied) = replace(&text, &old, "NEW", false) {
            let (head, tail) = applied.text.split_once("NEW").expect("the new text is there");
            // The new text may have been indented like the place.
            prop_assert!(text.starts_with(head.trim_end_matches([' ', '\t'])));
            let tail = tail.strip_suffix('\n').unwrap_or(tail);
            prop_assert!(text.strip_suffix('\n').unwrap_or(&text).ends_with(tail));
            // No other place fits the same rung.
            let count = literal(&text, &old, false).len();
            prop_assert_eq!(count, usize::from(applied.rung == Rung::Exact));
        }
    }

    #[test]
    fn crlf_files_stay_crlf(text in file("\r\n"), old in file("\n"), new in "[xyz\n]{1,6}") {
        if let Ok(applied) = replace(&text, &old, &new, false) {
            prop_assert!(!text.contains("\r\n") || !applied.text.replace("\r\n", "").contains('\n'));
            prop_assert!(!text.ends_with('\n') || applied.text.ends_with('\n'));
        }
    }
}
