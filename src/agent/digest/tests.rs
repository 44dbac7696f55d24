use super::*;

const ROOT: &str = "/home/dev/shop";

fn read(output: &str, exit: i32) -> Report {
    Report::read(output, Some(exit), ROOT)
}

#[track_caller]
fn counts(report: &Report, framework: &str, passed: u32, failed: u32, skipped: u32) {
    assert_eq!(report.framework, framework);
    assert_eq!((report.passed, report.failed, report.skipped), (passed, failed, skipped), "{report:#?}");
    assert!(report.parsed);
}

#[track_caller]
fn fails(report: &Report, id: &str, location: Option<&str>, message: &str) {
    let failing = report.failing.iter().find(|f| f.id == id).unwrap_or_else(|| panic!("no {id} in {report:#?}"));
    assert_eq!(failing.location.as_deref(), location, "{failing:#?}");
    assert!(failing.message.contains(message), "{failing:#?}");
}

#[test]
fn cargo_test() {
    let report = read(include_str!("samples/cargo.txt"), 101);
    counts(&report, "cargo test", 1, 4, 1);
    fails(
        &report,
        "tests::bad",
        Some("src/lib.rs:9"),
        "assertion `left == right` failed: two is two\n  left: 2\n right: 3",
    );
    fails(&report, "tests::err", None, "Error: \"boom\"");
    fails(&report, "tests::nopanic", Some("src/lib.rs:11"), "did not panic as expected");
    assert!(report.failing.iter().any(|f| f.id == "src/lib.rs - two (line 2)"));
    assert!(
        !report.failing.iter().any(|f| f.message.contains("core::panicking") || f.message.contains("RUST_BACKTRACE"))
    );
    let broken = read(include_str!("samples/compile.txt"), 101);
    counts(&broken, "rustc", 0, 1, 0);
    fails(
        &broken,
        "compile error[E0308] in src/lib.rs: mismatched types",
        Some("src/lib.rs:14"),
        "expected `i32`, found `&str`",
    );
    let nextest = read(include_str!("samples/nextest.txt"), 100);
    counts(&nextest, "cargo nextest", 1, 3, 1);
    fails(&nextest, "c tests::bad", Some("src/lib.rs:9"), "left: 2");
    fails(&nextest, "c tests::err", None, "Error: \"boom\"");
    assert_eq!(nextest.failing.len(), 3);
}

#[test]
fn python() {
    let report = read(include_str!("samples/pytest.txt"), 1);
    counts(&report, "pytest", 2, 3, 1);
    fails(
        &report,
        "tests/test_price.py::test_total[3-negative]",
        Some("tests/test_price.py:9"),
        "assert 3 == -3\n+  where",
    );
    fails(
        &report,
        "tests/test_sale.py::TestSale::test_no_stock",
        Some("shop/sale.py:4"),
        "ValueError: negative stock in <tmp>",
    );
    fails(&report, "tests/test_broken.py", Some("tests/test_broken.py:1"), "No module named 'nothing_here'");
    assert_eq!(report.failing.len(), 3);
    counts(&read("....\n4 passed in 0.02s\n", 0), "pytest", 4, 0, 0);
    assert_eq!(read("\nno tests ran in 0.01s\n", 5).verdict(), Verdict::RedWeak);

    let report = read(include_str!("samples/unittest.txt"), 1);
    counts(&report, "unittest", 1, 3, 1);
    fails(&report, "test_a.TestA.test_bad", Some("test_a.py:6"), "AssertionError: 1 != 2");
    fails(&report, "test_a.TestA.test_err", Some("test_a.py:7"), "KeyError: 'x'");
    fails(&report, "unittest.loader._FailedTest.test_b", Some("test_b.py:1"), "No module named 'nothing_here'");
    counts(&read("..\n-----\nRan 2 tests in 0.000s\n\nOK\n", 0), "unittest", 2, 0, 0);
}

#[test]
fn go_and_javascript() {
    let report = read(include_str!("samples/go.txt"), 1);
    assert_eq!(report.framework, "go test");
    fails(&report, "TestTotal/negative", Some("price_test.go:14"), "total(3) = 3, want -3");
    fails(&report, "TestStock", Some("stock_test.go:22"), "unexpected error: boom\nsecond line");
    fails(&report, "example.com/shop/broken [build failed]", Some("broken/b.go:3"), "undefined: y");
    assert_eq!((report.failing.len(), report.failed, report.passed), (3, 3, 1));
    counts(&read("ok  \texample.com/a\t0.003s\n", 0), "go test", 1, 0, 0);
    let json = concat!(
        r#"{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:5: boom\n"}"#,
        "\n",
        r#"{"Action":"fail","Package":"p","Test":"TestA","Elapsed":0.01}"#,
        "\n",
        r#"{"Action":"pass","Package":"p","Test":"TestB"}"#,
        "\n",
        r#"{"Action":"fail","Package":"p"}"#
    );
    let report = read(json, 1);
    counts(&report, "go test -json", 1, 1, 0);
    fails(&report, "p.TestA", Some("a_test.go:5"), "boom");

    for (sample, framework) in
        [(include_str!("samples/tap.txt"), "TAP"), (include_str!("samples/spec.txt"), "node --test")]
    {
        let report = read(sample, 1);
        counts(&report, framework, 2, 2, 1);
        fails(&report, "subs", Some("a.test.js:3"), "1 !== 2");
        fails(&report, "inner fails", Some("a.test.js:5"), "boom");
        assert_eq!(report.failing.len(), 2);
    }
    let report = read(include_str!("samples/jest.txt"), 1);
    counts(&report, "jest", 2, 1, 1);
    fails(&report, "price › subtracts", Some("src/price.test.js:8"), "Expected: -3\nReceived: 3");
    let report = read(include_str!("samples/vitest.txt"), 1);
    counts(&report, "vitest", 3, 1, 0);
    fails(&report, "src/price.test.ts > price > subtracts", Some("src/price.test.ts:8"), "expected 3 to be -3");
}

#[test]
fn junit_xml() {
    let report = read(include_str!("samples/junit.xml"), 1);
    counts(&report, "JUnit XML", 1, 2, 1);
    fails(&report, "tests.test_price::test_total", Some("tests/test_price.py:9"), "assert 3 == -3");
    fails(&report, "tests.test_broken", Some("tests/test_broken.py:1"), "collection failure");
    assert!(!read("<html/>", 0).parsed);
    assert!(!read("<testsuite><testcase", 0).parsed);
    let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;\">]><testsuite>&b;</testsuite>";
    assert!(!read(bomb, 0).parsed);
}

#[test]
fn verdicts() {
    let cargo_green = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
    let cases = [
        (cargo_green, Some(0), Verdict::Green),
        (cargo_green, Some(101), Verdict::RedWeak),
        (cargo_green, None, Verdict::RedWeak),
        (include_str!("samples/pytest.txt"), Some(0), Verdict::Red),
        (include_str!("samples/pytest.txt"), Some(1), Verdict::Red),
        ("all good\n", Some(0), Verdict::GreenWeak),
        ("make: *** [test] Error 2\n", Some(2), Verdict::RedWeak),
        ("test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured;\n", Some(0), Verdict::GreenWeak),
    ];
    for (output, exit, verdict) in cases {
        let report = Report::read(output, exit, "");
        assert_eq!(report.verdict(), verdict, "{output} {exit:?}");
        assert_eq!(digest(&report, None, output).starts_with("GREEN"), verdict.is_green());
    }
    let lied = Report::read(include_str!("samples/pytest.txt"), Some(0), ROOT);
    assert!(
        digest(&lied, None, "")
            .starts_with("RED: 3 failed, 2 passed, 1 skipped (pytest), although the command ended with exit 0\n")
    );
    let unknown = digest(&Report::read("x\nerror: boom\n", Some(2), ""), None, "x\nerror: boom in 3.20s\n");
    assert_eq!(
        unknown,
        "RED by exit status only: no test report was recognised (exit 2)\noutput:\nx\nerror: boom in <time>\n"
    );
}

#[test]
fn changes_since_the_last_run() {
    let failed = |ids: &[&str]| {
        let mut text: String = ids.iter().map(|id| format!("test {id} ... FAILED\n")).collect();
        ids.iter().for_each(|id| text.push_str(&format!("---- {id} stdout ----\nbecause of {id}\n\n")));
        text.push_str(&format!("test result: FAILED. 9 passed; {} failed; 0 ignored;\n", ids.len()));
        read(&text, 101)
    };
    let (before, now) = (failed(&["a", "b", "c", "d"]), failed(&["b", "c", "d", "e"]));
    let text = digest(&now, Some(&before), "");
    assert_eq!(
        text,
        "RED: 4 failed, 9 passed, 0 skipped (cargo test; exit 101)\n\
         since the last run: 1 fixed, 1 newly failing, 3 still failing\nfixed: a\nnewly failing: e\n\
         1. e\n   because of e\n2. b\n   because of b\n3. c\n   because of c\n4. d\n"
    );
    let text = digest(&read("test result: ok. 13 passed; 0 failed; 0 ignored;\n", 0), Some(&now), "");
    assert!(text.starts_with("GREEN: 0 failed, 13 passed") && text.contains("4 fixed"), "{text}");
}

#[test]
fn equal_failures_are_equal_and_small() {
    let sample = include_str!("samples/cargo.txt");
    let ids = Regex::new(r"\(\d{4,}\)").expect("a pattern");
    let again = ids.replace_all(sample, "(99)").replace("0.14s", "3.99s").replace("rustdoctest", "rustdoctestZZ");
    // Tests end in another order.
    let bad = "test tests::bad ... FAILED\n";
    let again = again.replacen(bad, "", 1).replacen("running 5 tests\n", &format!("running 5 tests\n{bad}"), 1);
    let (a, b) = (read(sample, 101), read(&again, 101));
    assert_eq!(digest(&a, None, ""), digest(&b, None, ""));
    assert_eq!(a.failing, b.failing);

    let many: String = (0..3000)
        .map(|i| format!("test t{i} ... FAILED\n---- t{i} stdout ----\n{}\n\n", "long é ".repeat(120)))
        .chain(["test result: FAILED. 0 passed; 3000 failed; 0 ignored;\n".to_owned()])
        .collect();
    let report = read(&many, 101);
    assert_eq!((report.failed, report.failing.len()), (3000, KEPT));
    let text = digest(&report, None, &many);
    assert!(text.len() <= DIGEST_BYTES && text.lines().count() < 40, "{}", text.len());
}

/// What a hostile test may print, in some megabytes: many heads, many sections, one name for all of them, no end of anything.
#[test]
fn a_hostile_output_costs_no_more_than_its_size() {
    let many = |line: &dyn Fn(usize) -> String| -> String { (0..60_000).map(line).collect() };
    let pytest_end = "=== 60000 failed in 1.00s ===\n";
    let outputs = [
        format!("FAIL\tx\t1s\n{}", many(&|i| format!("--- FAIL: T{i}\n"))),
        format!("FAIL\tx\t1s\n{}", many(&|i| format!("--- FAIL: T{i}{}\n", "/a".repeat(i % 20)))),
        many(&|i| format!("FAIL\tx{i} [build failed]\n")) + "a.go:1: broken\n",
        format!("test result: FAILED. 0 passed; 1 failed; 0 ignored;\n{}", {
            many(&|i| format!("test t{i} ... FAILED\n---- t{i} stdout ----\n"))
        }),
        format!("    Summary [ 1s] 1 tests run: 0 passed, 1 failed\n{}", many(&|i| format!("    FAIL [ 1s] x t{i}\n"))),
        format!("error: could not compile x\n{}", many(&|i| format!("error: e{i}\n --> src/a.rs:{i}:1\n"))),
        many(&|i| format!("____ t{i} ____\n")) + &many(&|i| format!("FAILED a.py::t{i}\n")) + pytest_end,
        many(&|_| "____ t ____\n".to_owned()) + &many(&|_| "FAILED a.py::t\n".to_owned()) + pytest_end,
        format!("{}\nRan 9 tests in 1s\n\nFAILED (failures=9)\n", {
            many(&|i| format!("{}\nFAIL: t{i} (x)\n{}\n", "=".repeat(20), "-".repeat(20)))
        }),
        many(&|i| format!("{{\"Action\":\"output\",\"Test\":\"T{i}\",\"Output\":\"x\"}}\n"))
            + &many(&|i| format!("{{\"Action\":\"fail\",\"Test\":\"T{i}\"}}\n")),
        format!("TAP version 13\n{}", many(&|i| format!("not ok {i} - t{i}\n"))),
        format!("ℹ fail 1\n{}", many(&|i| format!("test at a.js:{i}:1\n✖ t{i}\n"))),
        format!("Tests: 1 failed, 1 total\n{}", many(&|i| format!("  ● t{i}\n"))),
        format!(" Test Files  1 failed\n{}", many(&|i| format!(" FAIL  t{i}\n"))),
        format!("<testsuite>{}</testsuite>", many(&|i| format!("<testcase name=\"t{i}\"><failure/></testcase>"))),
        format!("<testsuite {}/>", many(&|i| format!("a{i}=\"\" "))),
    ];
    for output in outputs {
        let begin = std::time::Instant::now();
        let report = read(&output, 1);
        let start = output.get(..200).unwrap_or_default();
        // Each took minutes where a reader compared all with all; seconds are enough for a slow machine.
        assert!(begin.elapsed().as_secs() < 20, "{:?} for {start}", begin.elapsed());
        assert!(report.failing.len() <= KEPT, "{start}");
        assert!(!report.failing.is_empty() || !report.parsed, "{start}");
    }
}

#[test]
fn noise() {
    assert_eq!(steady("thread 'a b' (123) panicked"), "thread 'a b' panicked");
    assert_eq!(steady("<A object at 0x7f3a5c0b9d90>"), "<A object at <address>>");
    assert_eq!(steady("see '/tmp/x.y/z': gone"), "see '<tmp>': gone");
    assert_eq!(steady("at 2024-01-02T03:04:05.678Z on 127.0.0.1:45678"), "at <time> on 127.0.0.1:<port>");
    assert_eq!(steady("expected 5 got 3 (0.03s)"), "expected 5 got 3 (<time>)");
}
