//! The text that test frameworks print. Each reader answers only where it sees the framework's own summary or errors.
//!
//! The output is the work of whoever wrote the tests, up to some megabytes of it: a reader goes through it a fixed number of
//! times, finds by name through an index, and keeps no more failures than a report holds.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::LazyLock;

use regex::Regex;

use super::{Failing, KEPT, Report};

macro_rules! pattern {
    ($name:ident, $source:literal) => {
        static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($source).expect("a fixed pattern"));
    };
}

/// Every framework that is recognised in the output.
pub fn all(output: &str) -> Vec<Report> {
    if let Some(report) = super::xml::junit(output) {
        return vec![report];
    }
    // A word that every output of the framework holds, so that a large foreign output is not read eleven times.
    type Reader = fn(&str) -> Option<Report>;
    let readers: [(&str, Reader); 11] = [
        ("test result: ", libtest),
        ("Summary [", nextest),
        ("error: could not compile", rustc),
        (" in ", pytest),
        ("\nRan ", unittest),
        ("\"Action\"", go_json),
        ("\t", go),
        ("ok ", tap),
        ("ℹ ", node_spec),
        ("Tests:", jest),
        ("Test Files", vitest),
    ];
    readers.iter().filter(|(word, _)| output.contains(word)).filter_map(|(_, reader)| reader(output)).collect()
}

fn report(framework: &str) -> Report {
    Report { framework: framework.to_owned(), parsed: true, ..Report::default() }
}

fn number(text: &str) -> u32 {
    text.parse().unwrap_or(u32::MAX)
}

/// The most of what a test printed that is looked through for its reason.
const BODY_BYTES: usize = 64 * 1024;

/// The beginning of a body.
fn start_of(body: &str) -> &str {
    &body[..body.floor_char_boundary(BODY_BYTES)]
}

/// The bodies of heads: the text from the end of each to the start of the next.
fn bodies<'a>(output: &'a str, heads: &[regex::Captures<'a>]) -> Vec<&'a str> {
    let whole = |head: &regex::Captures<'a>| head.get(0).expect("group 0 is the match");
    let ends = heads.iter().skip(1).map(|next| whole(next).start()).chain([output.len()]);
    heads.iter().zip(ends).map(|(head, end)| &output[whole(head).end()..end]).collect()
}

/// How far into a message a place is looked for.
const PLACE_BYTES: usize = 8 * 1024;

/// The first `file.ext:line` of a text, where it lies in the project as far as one can see.
pub fn first_place(text: &str) -> Option<String> {
    pattern!(PLACE, r"([A-Za-z0-9_./@+-]+\.[A-Za-z]{1,5}):(\d+)");
    let own = |found: &regex::Captures<'_>| {
        let file = &found[1];
        let foreign = ["node_modules/", "site-packages/", "node:", "/rustc/", ".cargo/registry", "/usr/lib"];
        (!foreign.iter().any(|part| file.contains(part))).then(|| format!("{file}:{}", &found[2]))
    };
    let text = &text[..text.floor_char_boundary(PLACE_BYTES)];
    PLACE.captures_iter(text).find_map(|found| own(&found))
}

fn libtest(output: &str) -> Option<Report> {
    pattern!(RESULT, r"(?m)^test result: (?:ok|FAILED)\. (\d+) passed; (\d+) failed; (\d+) ignored;");
    pattern!(FAILED, r"(?m)^test (.+?)(?: - should panic)? \.\.\. FAILED\s*$");
    pattern!(SECTION, r"(?m)^---- (.+?) (?:stdout|stderr) ----$");
    pattern!(PANIC, r"panicked at ([^\n]*?:\d+)(?::\d+)?:");
    let mut report = report("cargo test");
    let mut seen = false;
    for found in RESULT.captures_iter(output) {
        seen = true;
        report.passed = report.passed.saturating_add(number(&found[1]));
        report.failed = report.failed.saturating_add(number(&found[2]));
        report.skipped = report.skipped.saturating_add(number(&found[3]));
    }
    if !seen {
        return None;
    }
    let mut sections: HashMap<String, &str> = HashMap::new();
    let heads: Vec<_> = SECTION.captures_iter(output).collect();
    for (head, body) in heads.iter().zip(bodies(output, &heads)) {
        let ends = ["\n---- ", "\nfailures:\n", "\ntest result:"].iter().filter_map(|end| body.find(end));
        sections.entry(head[1].to_owned()).or_insert(body[..ends.min().unwrap_or(body.len())].trim());
    }
    for found in FAILED.captures_iter(output).take(KEPT) {
        let id = found[1].to_owned();
        let body = start_of(sections.get(&id).copied().unwrap_or(""));
        let start = &body[..body.floor_char_boundary(PLACE_BYTES)];
        let location = PANIC.captures(start).map(|place| place[1].to_owned()).or_else(|| first_place(body));
        report.failing.push(Failing { id, message: rust_reason(body), location });
    }
    Some(report)
}

/// What a Rust test printed, without the backtrace and the advice about it.
fn rust_reason(body: &str) -> String {
    let advice = ["note: run with `RUST_BACKTRACE", "note: Some details are omitted"];
    let lines = body.lines().filter(|line| !line.trim().is_empty());
    let own = lines.take_while(|line| line.trim() != "stack backtrace:");
    own.filter(|line| !advice.iter().any(|start| line.trim_start().starts_with(start))).collect::<Vec<_>>().join("\n")
}

fn nextest(output: &str) -> Option<Report> {
    pattern!(SUMMARY, r"(?m)^\s*Summary \[[^\]]*\]\s+(?:\d+/)?\d+ tests? run: (\d+) passed([^\n]*)");
    pattern!(PART, r"(\d+) (failed|timed out|skipped)");
    pattern!(
        FAIL,
        r"(?m)^\s*(?:TRY \d+ )?(?:FAIL|TIMEOUT|SIG\w+|ABORT) \[[^\]]*\]\s+(?:\(\s*\d+/\d+\)\s+)?(\S+ .+?)\s*$"
    );
    pattern!(NEXT, r"(?m)^(?:\s+(?:PASS|FAIL|TIMEOUT|SLOW|SIG\w+|ABORT|Cancelling)\b|─{4,})");
    let found = SUMMARY.captures(output)?;
    let mut report = report("cargo nextest");
    report.passed = number(&found[1]);
    for part in PART.captures_iter(&found[2]) {
        match &part[2] {
            "skipped" => report.skipped = report.skipped.saturating_add(number(&part[1])),
            _ => report.failed = report.failed.saturating_add(number(&part[1])),
        }
    }
    let mut known = HashSet::new();
    for fail in FAIL.captures_iter(output) {
        if report.failing.len() >= KEPT {
            break;
        }
        let id = fail[1].to_owned();
        // A retried or finally listed test is there again.
        if !known.insert(id.clone()) {
            continue;
        }
        let rest = start_of(&output[fail.get(0).expect("group 0 is the match").end()..]);
        let body = &rest[..NEXT.find(rest).map_or(rest.len(), |next| next.start())];
        let body = body.split_once("stderr ───").map_or(body, |(_, errors)| errors);
        let message = rust_reason(&body.lines().map(str::trim).collect::<Vec<_>>().join("\n"));
        report.failing.push(Failing { location: first_place(&message), message, id });
    }
    Some(report)
}

/// Errors of the Rust compiler: nothing was tested at all.
fn rustc(output: &str) -> Option<Report> {
    pattern!(ERROR, r"(?m)^error(\[E\d+\])?: ([^\n]+)\n\s*--> ([^\s:]+:\d+)(?::\d+)?");
    let mut report = report("rustc");
    let mut known = HashSet::new();
    let heads: Vec<_> = ERROR.captures_iter(output).collect();
    for (found, body) in heads.iter().zip(bodies(output, &heads)) {
        let whole = found.get(0).expect("group 0 is the match");
        let body = start_of(body);
        let end = body.find("\n\n").unwrap_or(body.len());
        let message = &output[whole.start()..whole.end() + end];
        let file = found[3].rsplit_once(':').map_or(&found[3], |(file, _)| file);
        let failing = Failing {
            // Without the line, which moves with every edit.
            id: format!("compile error{} in {file}: {}", found.get(1).map_or("", |code| code.as_str()), &found[2]),
            message: message.to_owned(),
            location: Some(found[3].to_owned()),
        };
        // The library and its tests are compiled apart, with the same errors.
        if known.insert((failing.id.clone(), message)) && report.failing.len() < KEPT {
            report.failing.push(failing);
        }
    }
    report.failed = u32::try_from(known.len()).unwrap_or(u32::MAX);
    (report.failed > 0 && output.contains("error: could not compile")).then_some(report)
}

fn pytest(output: &str) -> Option<Report> {
    pattern!(
        SUMMARY,
        r"(?m)^(?:=+ )?((?:\d+ (?:failed|passed|skipped|deselected|xfailed|xpassed|errors?|warnings?|rerun|subtests passed)(?:, )?)+|no tests ran) in [\d.]+s?(?: \([\d:]+\))?(?: =+)?\s*$"
    );
    pattern!(PART, r"(\d+) (\w+)");
    pattern!(FAILED, r"(?m)^(?:FAILED|ERROR) (\S+?(?:\[[^\n]*?\])?(?:::[^\n]*?)?)(?: - ([^\n]*))?$");
    pattern!(SECTION, r"(?m)^_{3,} (?:ERROR (?:at \w+ of |collecting ))?(.+?) _{3,}$");
    pattern!(PLACE, r"(?m)^(\S+\.py:\d+): ");
    let summary = SUMMARY.captures_iter(output).last()?;
    let mut report = report("pytest");
    for part in PART.captures_iter(&summary[1]) {
        let count = number(&part[1]);
        match &part[2] {
            "passed" | "xpassed" => report.passed = report.passed.saturating_add(count),
            "failed" | "error" | "errors" => report.failed = report.failed.saturating_add(count),
            "skipped" | "xfailed" => report.skipped = report.skipped.saturating_add(count),
            _ => {}
        }
    }
    let heads: Vec<_> = SECTION.captures_iter(output).collect();
    let mut sections: Vec<(&str, &str)> = Vec::new();
    // Several tests may have one title: each takes the next section.
    let mut open: HashMap<&str, VecDeque<&str>> = HashMap::new();
    for (head, body) in heads.iter().zip(bodies(output, &heads)) {
        let title = head.get(1).map_or("", |title| title.as_str());
        let body = body.split("\n====").next().unwrap_or(body).trim();
        sections.push((title, body));
        open.entry(title).or_default().push_back(body);
    }
    for found in FAILED.captures_iter(output).take(KEPT) {
        let id = found[1].to_owned();
        // `tests/a.py::TestX::test_y[1]` has the title `TestX.test_y[1]`; a module that does not import, its path.
        let title = id.split_once("::").map_or(id.clone(), |(_, name)| name.replace("::", "."));
        let section = open.get_mut(title.as_str()).and_then(VecDeque::pop_front);
        let short = found.get(2).map_or("", |text| text.as_str());
        let (message, location) = match section {
            Some(body) => (reasons(body), PLACE.captures_iter(body).last().map(|place| place[1].to_owned())),
            None => (String::new(), None),
        };
        report.failing.push(Failing {
            id,
            message: if message.is_empty() { short.to_owned() } else { message },
            location,
        });
    }
    // Without a short summary the sections are all there is.
    if report.failing.is_empty() && report.failed > 0 {
        for (title, body) in sections.into_iter().take(KEPT) {
            let location = PLACE.captures_iter(body).last().map(|place| place[1].to_owned());
            report.failing.push(Failing { id: title.to_owned(), message: reasons(body), location });
        }
    }
    Some(report)
}

/// pytest's lines that say why: the asserted line and what follows `E`.
fn reasons(body: &str) -> String {
    let picked: Vec<&str> = body
        .lines()
        .filter(|line| line.starts_with("E ") || line.starts_with("> "))
        .map(|line| if line.starts_with("E ") { line[1..].trim() } else { line })
        .collect();
    picked.join("\n")
}

fn unittest(output: &str) -> Option<Report> {
    pattern!(RAN, r"(?m)^Ran (\d+) tests? in [\d.]+s$");
    pattern!(PART, r"(failures|errors|skipped|expected failures|unexpected successes)=(\d+)");
    pattern!(HEAD, r"(?m)^={20,}\n(?:FAIL|ERROR): (\S+)(?: \(([^)\n]*)\))?[^\n]*\n(?:[^\n]+\n)*?-{20,}$");
    pattern!(PLACE, r#"File "([^"]+)", line (\d+)"#);
    let ran = RAN.captures_iter(output).last()?;
    let total = number(&ran[1]);
    let mut report = report("unittest");
    let after = &output[ran.get(0).expect("group 0 is the match").end()..];
    let verdict = after.lines().map(str::trim).find(|line| line.starts_with("OK") || line.starts_with("FAILED"));
    for part in PART.captures_iter(verdict.unwrap_or("")) {
        let count = number(&part[2]);
        match &part[1] {
            "failures" | "errors" | "unexpected successes" => report.failed = report.failed.saturating_add(count),
            _ => report.skipped = report.skipped.saturating_add(count),
        }
    }
    report.passed = total.saturating_sub(report.failed).saturating_sub(report.skipped);
    for found in HEAD.captures_iter(output).take(KEPT) {
        let body = start_of(&output[found.get(0).expect("group 0 is the match").end()..]);
        let body = ["\n======", "\n------"].iter().fold(body, |body, end| body.split(end).next().unwrap_or(body));
        let place = PLACE.captures_iter(body).filter(|p| !p[1].contains("/lib/python")).last();
        // What follows the last frame of the traceback and its code.
        let frame = body.rfind("\n  File \"").map_or(0, |at| at + 1);
        let reason: Vec<&str> = body[frame..].lines().skip_while(|line| line.starts_with("  ")).collect();
        let (name, class) = (&found[1], found.get(2).map_or("", |class| class.as_str()));
        report.failing.push(Failing {
            // Since 3.11 the bracket holds the test's name too.
            id: match class {
                "" => name.to_owned(),
                _ if class.rsplit('.').next() == Some(name) => class.to_owned(),
                _ => format!("{class}.{name}"),
            },
            message: reason.join("\n").trim().to_owned(),
            location: place.map(|p| format!("{}:{}", &p[1], &p[2])),
        });
    }
    Some(report)
}

fn go(output: &str) -> Option<Report> {
    pattern!(PACKAGE, r"(?m)^(?:ok  |FAIL|---|\?   )\t(\S+)(?:\t[^\n]*| \[[^\n]*\])$");
    pattern!(TEST, r"(?m)^(\s*)--- (FAIL|PASS|SKIP): (\S+)(?: \([\d.]+s\))?$");
    pattern!(BUILD, r"(?m)^(?:\./)?([\w./-]+\.go:\d+)(?::\d+)?: ([^\n]+)$");
    pattern!(BROKEN, r"(?m)^FAIL\t(\S+) \[(build failed|setup failed)\]$");
    if !PACKAGE.is_match(output) && !BROKEN.is_match(output) {
        return None;
    }
    let mut report = report("go test");
    let heads: Vec<_> = TEST.captures_iter(output).collect();
    let mut failed: Vec<&str> = heads
        .iter()
        .filter(|head| &head[2] == "FAIL")
        .filter_map(|head| head.get(3).map(|name| name.as_str()))
        .collect();
    failed.sort_unstable();
    for (head, body) in heads.iter().zip(bodies(output, &heads)) {
        match &head[2] {
            "PASS" => report.passed += 1,
            "SKIP" => report.skipped += 1,
            _ => {
                let body: Vec<&str> =
                    start_of(body).lines().skip(1).take_while(|line| line.starts_with("    ")).map(str::trim).collect();
                let inside = format!("{}/", &head[3]);
                let first = failed.partition_point(|name| *name < inside.as_str());
                if body.is_empty() && failed.get(first).is_some_and(|name| name.starts_with(&inside)) {
                    // A group fails because one in it did.
                    continue;
                }
                report.failed += 1;
                if report.failing.len() >= KEPT {
                    continue;
                }
                let message = body.join("\n");
                report.failing.push(Failing { id: head[3].to_owned(), location: first_place(&message), message });
            }
        }
    }
    if report.passed == 0 {
        // Without -v only packages are told; one that passed counts as one.
        report.passed =
            u32::try_from(output.lines().filter(|line| line.starts_with("ok  \t")).count()).unwrap_or(u32::MAX);
    }
    if let Some(at) = output.find("panic: ").filter(|_| report.failing.is_empty()) {
        let message: String = output[at..].lines().take(6).collect::<Vec<_>>().join("\n");
        report.failing.push(Failing { id: "panic".to_owned(), location: first_place(&output[at..]), message });
    }
    let errors: Vec<_> = BUILD.captures_iter(output).take(5).collect();
    for found in BROKEN.captures_iter(output).take(KEPT) {
        let package = &found[1];
        let message = errors.iter().map(|error| error[0].to_owned()).collect::<Vec<_>>().join("\n");
        let location = errors.first().map(|error| error[1].to_owned());
        report.failing.push(Failing { id: format!("{package} [{}]", &found[2]), message, location });
    }
    report.failed = report.failed.max(u32::try_from(report.failing.len()).unwrap_or(u32::MAX));
    if report.failed == 0 && output.lines().any(|line| line.starts_with("FAIL\t")) {
        report.failed = 1;
    }
    Some(report)
}

fn go_json(output: &str) -> Option<Report> {
    let mut report = report("go test -json");
    let mut outputs: HashMap<String, String> = HashMap::new();
    let mut seen = false;
    for line in output.lines().filter(|line| line.starts_with('{') && line.contains("\"Action\"")) {
        let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let get = |key: &str| event.get(key).and_then(serde_json::Value::as_str).unwrap_or("");
        let (action, test) = (get("Action"), get("Test"));
        let id = if test.is_empty() { get("Package").to_owned() } else { format!("{}.{test}", get("Package")) };
        match action {
            "output" => {
                let text = outputs.entry(id).or_default();
                if text.len() < BODY_BYTES {
                    text.push_str(get("Output"));
                }
            }
            "pass" | "fail" | "skip" => {
                seen = true;
                match (action, test.is_empty()) {
                    ("pass", false) => report.passed += 1,
                    ("skip", false) => report.skipped += 1,
                    ("fail", false) => {
                        report.failed += 1;
                        if report.failing.len() >= KEPT {
                            continue;
                        }
                        let text = outputs.get(&id).map_or("", String::as_str);
                        let noise = |line: &&str| !["===", "---"].iter().any(|mark| line.trim().starts_with(mark));
                        let message = text.lines().filter(noise).map(str::trim).collect::<Vec<_>>().join("\n");
                        report.failing.push(Failing { id, location: first_place(&message), message });
                    }
                    ("fail", true) if report.failing.is_empty() => {
                        let text = outputs.get(&id).cloned().unwrap_or_default();
                        report.failing.push(Failing { id, location: first_place(&text), message: text });
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    seen.then_some(report)
}

fn tap(output: &str) -> Option<Report> {
    pattern!(TEST, r"(?m)^( *)(not )?ok \d+(?: -)? ?([^\n#]*?)(?: # (?i:(skip|todo))\b[^\n]*)?$");
    if !output.contains("TAP version ") && !output.lines().any(is_tap_plan) {
        return None;
    }
    let heads: Vec<_> = TEST.captures_iter(output).collect();
    if heads.is_empty() {
        return None;
    }
    let mut report = report("TAP");
    for (head, body) in heads.iter().zip(bodies(output, &heads)) {
        let block = body.find("\n  ...").or_else(|| body.find("...\n")).map_or(body, |at| &body[..at]);
        // A suite is the sum of its tests.
        if block.contains("type: 'suite'") || block.contains("failureType: 'subtestsFailed'") {
            continue;
        }
        match (head.get(4).is_some(), head.get(2).is_some()) {
            (true, _) => report.skipped += 1,
            (false, false) => report.passed += 1,
            (false, true) => {
                report.failed += 1;
                if report.failing.len() >= KEPT {
                    continue;
                }
                let location = yaml_value(block, "location").map(|place| short_place(&place));
                let message =
                    yaml_value(block, "error").or_else(|| yaml_value(block, "message")).unwrap_or_else(|| {
                        let comment = |line: &&str| line.trim_start().starts_with('#');
                        body.lines().filter(comment).collect::<Vec<_>>().join("\n")
                    });
                report.failing.push(Failing { id: head[3].trim().to_owned(), message, location });
            }
        }
    }
    Some(report)
}

fn is_tap_plan(line: &str) -> bool {
    line.strip_prefix("1..").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// `file:line` of a `file:line:column`.
fn short_place(place: &str) -> String {
    let parts: Vec<&str> = place.rsplitn(3, ':').collect();
    match parts.as_slice() {
        [column, line, file] if column.parse::<u32>().is_ok() && line.parse::<u32>().is_ok() => {
            format!("{file}:{line}")
        }
        _ => place.to_owned(),
    }
}

/// A value of TAP's indented block: on the line, quoted, or a `|-` text below.
fn yaml_value(block: &str, key: &str) -> Option<String> {
    let mut lines = block.lines();
    while let Some(line) = lines.next() {
        let Some(value) = line.trim_start().strip_prefix(key).and_then(|rest| rest.strip_prefix(':')) else { continue };
        let value = value.trim();
        if !value.starts_with('|') && !value.starts_with('>') {
            return Some(value.trim_matches(['\'', '"']).to_owned());
        }
        let depth = line.len() - line.trim_start().len();
        let text: Vec<&str> = lines
            .take_while(|line| line.trim().is_empty() || line.len() - line.trim_start().len() > depth)
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        return Some(text.join("\n"));
    }
    None
}

fn node_spec(output: &str) -> Option<Report> {
    pattern!(COUNT, r"(?m)^ℹ (pass|fail|cancelled|skipped|todo) (\d+)\s*$");
    pattern!(FAILED, r"(?m)^test at (\S+?:\d+)(?::\d+)?\n✖ ([^\n]*?)(?: \([\d.]+ms\))?$");
    let mut report = report("node --test");
    let mut seen = false;
    for found in COUNT.captures_iter(output) {
        seen = true;
        let count = number(&found[2]);
        match &found[1] {
            "pass" => report.passed = report.passed.saturating_add(count),
            "fail" | "cancelled" => report.failed = report.failed.saturating_add(count),
            _ => report.skipped = report.skipped.saturating_add(count),
        }
    }
    let heads: Vec<_> = FAILED.captures_iter(output).collect();
    for (head, body) in heads.iter().zip(bodies(output, &heads)).take(KEPT) {
        let message: Vec<&str> = start_of(body)
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .take_while(|line| !line.starts_with("at ") && !line.starts_with('{'))
            .collect();
        report.failing.push(Failing {
            id: head[2].to_owned(),
            message: message.join("\n"),
            location: Some(head[1].to_owned()),
        });
    }
    seen.then_some(report)
}

fn jest(output: &str) -> Option<Report> {
    pattern!(SUMMARY, r"(?m)^Tests:\s+((?:\d+ \w+, )*\d+ total)\s*$");
    pattern!(PART, r"(\d+) (\w+)");
    pattern!(SUITES, r"(?m)^Test Suites:\s+(?:(\d+) failed, )?");
    pattern!(HEAD, r"(?m)^  ● ([^\n]+)$");
    let summary = SUMMARY.captures_iter(output).last()?;
    let mut report = report("jest");
    for part in PART.captures_iter(&summary[1]) {
        let count = number(&part[1]);
        match &part[2] {
            "passed" => report.passed = count,
            "failed" => report.failed = count,
            "skipped" | "todo" | "pending" => report.skipped = report.skipped.saturating_add(count),
            _ => {}
        }
    }
    let heads: Vec<_> = HEAD.captures_iter(output).collect();
    let mut known = HashSet::new();
    for (head, body) in heads.iter().zip(bodies(output, &heads)) {
        let id = head[1].trim().to_owned();
        if id.starts_with("Console") || !known.insert(id.clone()) {
            continue;
        }
        if report.failing.len() >= KEPT {
            break;
        }
        let body = start_of(body);
        let body = body.split("\nTest Suites:").next().unwrap_or(body);
        let message: Vec<&str> = body
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .take_while(|line| !line.starts_with("at ") && !line.starts_with("FAIL "))
            .collect();
        let stack: String = body.lines().filter(|line| line.trim().starts_with("at ")).collect::<Vec<_>>().join("\n");
        report.failing.push(Failing { id, message: message.join("\n"), location: first_place(&stack) });
    }
    // A suite that does not load has no test that fails.
    let suites =
        SUITES.captures(output).and_then(|found| found.get(1).map(|count| number(count.as_str()))).unwrap_or(0);
    report.failed = report.failed.max(suites);
    Some(report)
}

fn vitest(output: &str) -> Option<Report> {
    pattern!(SUMMARY, r"(?m)^\s+Tests\s+((?:\d+ \w+(?: \| )?)+) \(\d+\)\s*$");
    pattern!(FILES, r"(?m)^\s+Test Files\s+(?:(\d+) failed)?");
    pattern!(PART, r"(\d+) (\w+)");
    pattern!(HEAD, r"(?m)^ FAIL  ([^\n]+)$");
    let files = FILES.captures_iter(output).last()?;
    let mut report = report("vitest");
    if let Some(summary) = SUMMARY.captures_iter(output).last() {
        for part in PART.captures_iter(&summary[1]) {
            let count = number(&part[1]);
            match &part[2] {
                "passed" => report.passed = count,
                "failed" => report.failed = count,
                _ => report.skipped = report.skipped.saturating_add(count),
            }
        }
    }
    report.failed = report.failed.max(files.get(1).map_or(0, |count| number(count.as_str())));
    let heads: Vec<_> = HEAD.captures_iter(output).collect();
    for (head, body) in heads.iter().zip(bodies(output, &heads)).take(KEPT) {
        let body = start_of(body);
        let message: Vec<&str> = body
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .take_while(|line| !line.starts_with('❯') && !line.starts_with('⎯'))
            .collect();
        let place = body.lines().find(|line| line.trim().starts_with('❯')).and_then(first_place);
        report.failing.push(Failing { id: head[1].trim().to_owned(), message: message.join("\n"), location: place });
    }
    Some(report)
}
