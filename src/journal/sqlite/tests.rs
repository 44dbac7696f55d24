use super::super::suite;
use super::formats::{APPLICATION_ID, MIGRATIONS};
use super::*;

fn home() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn open(home: &tempfile::TempDir) -> Result<SqliteJournal, JournalError> {
    SqliteJournal::open(&home.path().join("state.db"), Durability::Full, true)
}

#[tokio::test]
async fn passes_the_suite_and_keeps_it_all() {
    let home = home();
    suite::all(&open(&home).unwrap()).await;
    let again = open(&home).unwrap();
    assert_eq!(again.events(suite::run(1), 0).await.unwrap().len(), 4);
}

#[tokio::test]
async fn two_writers_cannot_fork_a_run() {
    let home = home();
    let (one, two) = (open(&home).unwrap(), open(&home).unwrap());
    let id = suite::run(1);
    one.accept(suite::first(id, None), suite::summary("EXECUTING")).await.unwrap();
    let before = two.stamp();
    assert_eq!(two.stamp(), before);
    one.append(id, vec![suite::event(2)], suite::summary("EXECUTING")).await.unwrap();
    assert_ne!(two.stamp(), before, "what another one wrote shows");
    let late = two.append(id, vec![suite::event(2)], suite::summary("EXECUTING")).await;
    assert_eq!(late, Err(JournalError::Conflict { run: id, seq: 2 }));
}

#[tokio::test]
async fn appends_from_many_tasks_are_all_kept() {
    let home = home();
    let journal = Arc::new(open(&home).unwrap());
    let tasks: Vec<_> = (0..50)
        .map(|n| {
            let journal = journal.clone();
            tokio::spawn(async move {
                let id = suite::run(n);
                journal.accept(suite::first(id, None), suite::summary("EXECUTING")).await.unwrap();
                for seq in 2..6 {
                    journal.append(id, vec![suite::event(seq)], suite::summary("EXECUTING")).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    for n in 0..50 {
        assert_eq!(journal.events(suite::run(n), 0).await.unwrap().len(), 5);
    }
}

#[tokio::test]
async fn where_the_disk_is_full_a_group_is_refused_as_a_whole_and_says_why() {
    let home = home();
    let journal = open(&home).unwrap();
    let [a, b, c, d] = [1, 2, 3, 4].map(suite::run);
    for id in [a, b, c] {
        journal.accept(suite::first(id, None), suite::summary("EXECUTING")).await.unwrap();
    }
    // SQLite refuses to grow the file beyond this, as it does where the disk is full.
    let pages = |most: u32| {
        journal.write(move |transaction| {
            let sql = format!("PRAGMA max_page_count = {most}");
            Ok(transaction.query_row(&sql, [], |row| row.get::<_, u32>(0))?)
        })
    };
    let now = pages(1).await.unwrap();
    let full = pages(now + 4).await.unwrap();
    // What comes while one is written waits together: the four below are one group, and the second of them is too large.
    let (go, waiting) = std::sync::mpsc::channel::<()>();
    let (begun, began) = oneshot::channel();
    let held = journal.write(move |_| {
        let _ = begun.send(());
        let _ = waiting.recv();
        Ok(())
    });
    let large = Event {
        body: EventBody::StepContinued {
            step: crate::core::id::StepId::new("a").unwrap(),
            carry: Value::from("x".repeat(1 << 18)),
        },
        ..suite::event(2)
    };
    let small = || vec![suite::event(2)];
    let together = async {
        began.await.unwrap();
        tokio::join!(
            biased;
            journal.append(a, small(), suite::summary("EXECUTING")),
            journal.append(b, vec![large.clone()], suite::summary("EXECUTING")),
            journal.append(c, small(), suite::summary("EXECUTING")),
            journal.accept(suite::first(d, None), suite::summary("QUEUED")),
            async { go.send(()).unwrap() },
        )
    };
    let (held, (one, two, three, new, ())) = tokio::join!(held, together);
    held.unwrap();
    for answer in [one, two, three, new.map(|_| ())] {
        let Err(JournalError::Full { why, .. }) = &answer else { panic!("{answer:?}") };
        assert!(why.contains("full"), "{why}");
    }
    for (id, kept) in [(a, 1), (b, 1), (c, 1), (d, 0)] {
        assert_eq!(journal.events(id, 0).await.unwrap().len(), kept, "what was refused was not written");
    }
    // What fits is still written, and the rest when there is room.
    journal.append(a, small(), suite::summary("EXECUTING")).await.unwrap();
    pages(full + 10_000).await.unwrap();
    journal.append(b, vec![large], suite::summary("EXECUTING")).await.unwrap();
    journal.append(c, small(), suite::summary("EXECUTING")).await.unwrap();
    assert_eq!(journal.accept(suite::first(d, None), suite::summary("QUEUED")).await, Ok(Acceptance::New));
}

#[tokio::test]
async fn a_journal_of_the_first_format_opens_with_its_events_in_order() {
    let home = home();
    let path = home.path().join("state.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(MIGRATIONS[0]).unwrap();
    old.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    // The second run began before the first one went on.
    let events = [(1, suite::first(suite::run(1), None)), (1, suite::event(9)), (2, suite::first(suite::run(2), None))];
    for run in [1, 2] {
        let id = suite::run(run);
        let summary = serde_json::to_string(&suite::summary("EXECUTING")).unwrap();
        let values = params![id.to_string(), id.short(), summary];
        old.execute("INSERT INTO runs VALUES (?1, ?2, NULL, 1, 1, 2, 0, ?3)", values).unwrap();
    }
    for (run, event) in &events {
        let (run, seq) = (suite::run(*run).to_string(), if event.seq == 1 { 1 } else { 2 });
        old.execute("INSERT INTO events VALUES (?1, ?2, ?3)", params![run, seq, encode(event).unwrap()]).unwrap();
    }
    drop(old);
    let journal = open(&home).unwrap();
    let order: Vec<_> =
        journal.feed(0, 10).await.unwrap().into_iter().map(|(at, run, event)| (at, run, event.seq)).collect();
    assert_eq!(order, [(1, suite::run(1), 1), (2, suite::run(2), 1), (3, suite::run(1), 9)]);
    journal.append(suite::run(2), vec![suite::event(3)], suite::summary("EXECUTING")).await.unwrap();
    assert_eq!(journal.feed(3, 10).await.unwrap()[0].0, 4);
    drop(journal);
    assert_eq!(open(&home).unwrap().feed(0, 10).await.unwrap().len(), 4, "once migrated, it opens as it is");
}

#[tokio::test]
async fn a_journal_of_the_second_format_opens_and_its_runs_are_listed() {
    let home = home();
    let path = home.path().join("state.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(MIGRATIONS[0]).unwrap();
    old.execute_batch(MIGRATIONS[1]).unwrap();
    old.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
    old.pragma_update(None, "user_version", 2).unwrap();
    for (n, status) in [(1, "COMPLETED"), (2, "PLANNED")] {
        let id = suite::run(n);
        let mut summary = suite::summary(status);
        summary.waiting_for = (n == 2).then(|| "approval".to_owned());
        let ended = summary.ended;
        let values = params![id.to_string(), id.short(), n, ended, serde_json::to_string(&summary).unwrap()];
        old.execute("INSERT INTO runs VALUES (?1, ?2, NULL, ?3, ?3, 1, ?4, ?5)", values).unwrap();
    }
    drop(old);
    let journal = open(&home).unwrap();
    let waiting = journal.list(Wanted { waiting: Some(true), ..Wanted::default() }, 9).await.unwrap();
    assert_eq!(waiting.iter().map(|row| row.id).collect::<Vec<_>>(), [suite::run(2)]);
    let census = journal.census().await.unwrap();
    assert_eq!((census.by_status["COMPLETED"], census.open, census.waiting), (1, 1, 1));
    drop(journal);
    assert_eq!(open(&home).unwrap().runs(9).await.unwrap().len(), 2, "once migrated, it opens as it is");
}

#[test]
fn no_list_reads_runs_that_it_does_not_show() {
    let home = home();
    let journal = open(&home).unwrap();
    let connection = journal.reader.lock().unwrap();
    let status = |status: &str| Wanted { status: Some(status.to_owned()), ..Wanted::default() };
    let repo = Wanted { repo: Some("shop".to_owned()), ..Wanted::default() };
    for (wanted, index) in [
        (Wanted::default(), "runs_by_time"),
        (status("FAILED"), "runs_by_status"),
        (Wanted { since: Some(Timestamp(1)), ..status("FAILED") }, "runs_failed"),
        (repo.clone(), "runs_by_repo"),
        (Wanted { behind: Some(suite::run(1)), ..repo }, "runs_by_repo"),
        (Wanted { behind: Some(suite::run(1)), ..status("FAILED") }, "runs_by_status"),
        (Wanted { behind: Some(suite::run(1)), ..Wanted::default() }, "runs_by_time"),
        (Wanted { waiting: Some(true), ..Wanted::default() }, "runs_waiting"),
        (Wanted { ended: Some(true), ..Wanted::default() }, "runs_ended"),
        (Wanted { ended: Some(false), waiting: Some(false), ..Wanted::default() }, "runs_open"),
    ] {
        let (clause, mut parameters) = clause(wanted.clone());
        parameters.push(10.into());
        let select = format!("SELECT summary FROM runs {clause} ORDER BY created_at DESC, id DESC LIMIT ?");
        let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {select}")).unwrap();
        let lines = plan.query_map(rusqlite::params_from_iter(parameters), |row| row.get::<_, String>(3)).unwrap();
        let plan = lines.collect::<rusqlite::Result<Vec<_>>>().unwrap().join("; ");
        assert!(plan.contains(&format!(" {index}")), "{wanted:?}: {plan}");
    }
    for (count, index) in [("WHERE ended = 0", "runs_open"), ("WHERE waiting_for IS NOT NULL", "runs_waiting")] {
        let select = format!("EXPLAIN QUERY PLAN SELECT count(*) FROM runs {count}");
        let plan: String = connection.query_row(&select, [], |row| row.get(3)).unwrap();
        assert!(plan.contains(index), "{plan}");
    }
}

#[tokio::test]
async fn positions_are_never_given_twice() {
    let home = home();
    let journal = open(&home).unwrap();
    for n in 1..=2 {
        journal.accept(suite::first(suite::run(n), None), suite::summary("EXECUTING")).await.unwrap();
    }
    let other = Connection::open(home.path().join("state.db")).unwrap();
    let last = suite::run(2).to_string();
    other.execute("DELETE FROM events WHERE run = ?1", [&last]).unwrap();
    journal.accept(suite::first(suite::run(3), None), suite::summary("EXECUTING")).await.unwrap();
    assert_eq!(journal.feed(2, 10).await.unwrap()[0].0, 3);
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let home = home();
    drop(open(&home).unwrap());
    let path = home.path().join("state.db");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 999).unwrap();
    let error = open(&home).err().unwrap();
    assert!(matches!(error, JournalError::Newer { found: 999, .. }), "{error}");
    let version: i64 =
        Connection::open(&path).unwrap().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 999);
}

#[test]
fn a_foreign_database_is_refused() {
    let home = home();
    let path = home.path().join("state.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE photos (id INTEGER)").unwrap();
    assert!(matches!(open(&home), Err(JournalError::Foreign { .. })));
}

#[test]
fn a_damaged_or_vanished_file_is_never_replaced() {
    let home = home();
    drop(open(&home).unwrap());
    let path = home.path().join("state.db");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..100].fill(b'x');
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(open(&home), Err(JournalError::Damaged { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(open(&home), Err(JournalError::Gone { .. })));
    assert!(!path.exists());
}

#[test]
fn a_fresh_journal_can_be_opened_by_many_at_once() {
    for _ in 0..20 {
        let home = home();
        let start = std::sync::Barrier::new(6);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    start.wait();
                    open(&home).unwrap();
                });
            }
        });
    }
}
