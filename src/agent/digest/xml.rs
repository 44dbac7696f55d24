//! JUnit XML, as many frameworks write it. Pure; bounded by the reader's node limit, no entities from outside.

use roxmltree::{Document, Node, ParsingOptions};

use super::{Failing, KEPT, Report};

/// A larger report is not read.
const NODES: u32 = 2_000_000;
/// A report with more attributes in one tag is not read: the reader compares each with each.
const ATTRIBUTES: usize = 2_000;

/// Reads a whole document; none where it is not JUnit XML.
pub fn junit(text: &str) -> Option<Report> {
    let start = text.find("<?xml").or_else(|| text.find("<testsuite"))?;
    let text = text[start..].trim_end();
    if text.split('<').any(crowded) {
        return None;
    }
    let options = ParsingOptions { nodes_limit: NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options).ok()?;
    let root = document.root_element();
    if !matches!(root.tag_name().name(), "testsuites" | "testsuite") {
        return None;
    }
    let mut report = Report { framework: "JUnit XML".to_owned(), parsed: true, ..Report::default() };
    for case in root.descendants().filter(|node| node.has_tag_name("testcase")) {
        let child = |name: &str| case.children().find(|node| node.has_tag_name(name));
        if let Some(why) = child("failure").or_else(|| child("error")) {
            report.failed += 1;
            if report.failing.len() < KEPT {
                report.failing.push(failing(case, why));
            }
        } else if child("skipped").is_some() {
            report.skipped += 1;
        } else {
            report.passed += 1;
        }
    }
    // A suite can fail as a whole: a module that does not import.
    for suite in root.descendants().filter(|node| node.has_tag_name("testsuite")) {
        for why in suite.children().filter(|node| node.has_tag_name("error") || node.has_tag_name("failure")) {
            report.failed += 1;
            if report.failing.len() < KEPT {
                report.failing.push(failing(suite, why));
            }
        }
    }
    Some(report)
}

/// Whether a piece between two `<`, none of which stands within a tag, has too many attributes.
fn crowded(piece: &str) -> bool {
    let values = piece.split('=').skip(1).filter(|rest| rest.trim_start().starts_with(['"', '\'']));
    values.take(ATTRIBUTES + 1).count() > ATTRIBUTES
}

fn failing(case: Node<'_, '_>, why: Node<'_, '_>) -> Failing {
    let name = case.attribute("name").unwrap_or("unnamed");
    let id = match case.attribute("classname").filter(|class| !class.is_empty()) {
        Some(class) => format!("{class}::{name}"),
        None => name.to_owned(),
    };
    let body = why.text().unwrap_or("").trim();
    let message = match why.attribute("message").map(str::trim).filter(|message| !message.is_empty()) {
        // The body usually repeats the message at its end, after the code.
        Some(message) => message.to_owned(),
        None => body.to_owned(),
    };
    let location = case.attribute("file").map(|file| match case.attribute("line") {
        Some(line) => format!("{file}:{line}"),
        None => file.to_owned(),
    });
    Failing { id, message, location: location.or_else(|| super::formats::first_place(body)) }
}
