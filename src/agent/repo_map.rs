//! A map of a repository for the planner: which files matter for some words, and what they define.
//!
//! Equal trees and words give equal bytes. It is lexical and bounded by bytes read; whoever asks may stop it early, and the map
//! then says so.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

use super::files::{Entry, FileError, Kind, RepoPath, Source, StopNow};
use super::outline::{Language, Symbol, language, outline};

/// The most bytes of a map.
pub const MAP_BYTES: usize = 16 * 1024;
/// Larger files are generated or data.
const FILE_BYTES: u64 = 256 * 1024;
/// Bytes read in all.
const TOTAL_BYTES: u64 = 20 * 1024 * 1024;
/// A name that more files define says nothing about any of them.
const DEFINERS: usize = 8;
/// Rounds of the ranking; more change no order that matters.
const ROUNDS: usize = 20;
/// The share of rank that follows references.
const DAMPING: f64 = 0.85;
/// Names shown of one file.
const NAMES: usize = 14;
/// Folders shown in the overview.
const FOLDERS: usize = 40;
/// Words of the focus that count.
const FOCUS_WORDS: usize = 200;
/// Folders of other people's code or of build results, where the repository has committed them.
const FOREIGN: [&str; 10] = [
    "node_modules",
    "vendor",
    "third_party",
    "dist",
    "target",
    "site-packages",
    ".venv",
    "venv",
    "Pods",
    "bower_components",
];

/// Draws the map. `focus` are paths, symbols or a task's text; at most `max_bytes` (16 KB) come out.
pub fn repo_map(
    source: &dyn Source,
    focus: &[String],
    max_bytes: usize,
    stop: StopNow<'_>,
) -> Result<String, FileError> {
    let limit = max_bytes.min(MAP_BYTES);
    let walk = source.walk(&RepoPath::root(), stop)?;
    let words = focus_words(focus);
    let files = read(source, &walk.entries, stop);
    let rank = rank(&files, &words, focus, stop);

    let mut text = overview(&walk.entries, walk.complete);
    if stop() {
        text.push_str(
            "[stopped, because it took too long: what is missing here is found with find_files and search]\n\n",
        );
    }
    let mut order: Vec<usize> = (0..files.len()).collect();
    order.sort_by(|a, b| rank.files[*b].total_cmp(&rank.files[*a]).then_with(|| files[*a].path.cmp(&files[*b].path)));
    let mut shown = 0;
    for index in order {
        let block = block(&files[index], &rank, &words);
        if text.len() + block.len() + 80 > limit {
            break;
        }
        text.push_str(&block);
        shown += 1;
    }
    if shown < files.len() {
        let _ = writeln!(text, "[{} more source files; use find_files, search and outline]", files.len() - shown);
    }
    text.truncate(text.floor_char_boundary(limit));
    Ok(text)
}

struct Read {
    path: String,
    text: String,
    symbols: Vec<Symbol>,
}

fn read(source: &dyn Source, entries: &[Entry], stop: StopNow<'_>) -> Vec<Read> {
    let mut wanted: Vec<(&Entry, Language)> = entries
        .iter()
        .filter(|entry| entry.kind == Kind::File && entry.size <= FILE_BYTES)
        .filter(|entry| !entry.path.split('/').any(|part| FOREIGN.contains(&part)) && !entry.path.contains(".min."))
        .filter_map(|entry| language(&entry.path).map(|language| (entry, language)))
        .collect();
    // Where not all can be read, the shallow ones are the ones that explain the rest.
    wanted.sort_by_key(|(entry, _)| (entry.path.matches('/').count(), &entry.path));
    let mut files = Vec::new();
    let mut total = 0;
    for (entry, language) in wanted {
        if stop() {
            break;
        }
        if total + entry.size > TOTAL_BYTES {
            continue;
        }
        let Ok(path) = RepoPath::parse(&entry.path) else { continue };
        let Ok(content) = source.read(&path, FILE_BYTES) else { continue };
        if content.is_binary() {
            continue;
        }
        total += content.bytes.len() as u64;
        let text = String::from_utf8_lossy(&content.bytes).into_owned();
        let symbols = outline(language, &text);
        files.push(Read { path: entry.path.clone(), text, symbols });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

struct Rank {
    files: Vec<f64>,
    /// How often other files use a name.
    uses: HashMap<String, usize>,
}

fn rank(files: &[Read], words: &BTreeSet<String>, focus: &[String], stop: StopNow<'_>) -> Rank {
    let mut definers: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, file) in files.iter().enumerate() {
        for symbol in &file.symbols {
            let name = last_part(&symbol.name);
            let list = definers.entry(name).or_default();
            if name.len() > 2 && list.last() != Some(&index) {
                list.push(index);
            }
        }
    }
    definers.retain(|_, list| !list.is_empty() && list.len() <= DEFINERS);

    let mut uses: HashMap<String, usize> = HashMap::new();
    let mut edges: Vec<Vec<(usize, f64)>> = Vec::with_capacity(files.len());
    let mut about = vec![0.0; files.len()];
    for (index, file) in files.iter().enumerate() {
        if stop() {
            edges.resize_with(files.len(), Vec::new);
            break;
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for word in identifiers(&file.text) {
            if definers.contains_key(word) {
                *counts.entry(word).or_default() += 1;
            }
        }
        let mut out: BTreeMap<usize, f64> = BTreeMap::new();
        for (name, count) in counts {
            let list = &definers[name];
            let weight = (count as f64).sqrt() / list.len() as f64 * if is_about(name, words) { 4.0 } else { 1.0 };
            for target in list.iter().filter(|target| **target != index) {
                *out.entry(*target).or_default() += weight;
                *uses.entry(name.to_owned()).or_default() += 1;
            }
        }
        edges.push(out.into_iter().collect());
        about[index] = relevance(file, words, focus);
    }

    let count = files.len().max(1) as f64;
    let sum: f64 = about.iter().sum();
    // Half of the restarts go where the focus points, half everywhere, so that hubs stay visible.
    let restart: Vec<f64> =
        about.iter().map(|a| if sum > 0.0 { 0.25 / count + 0.75 * a / sum } else { 1.0 / count }).collect();
    let mut scores = restart.clone();
    for _ in 0..ROUNDS {
        let mut next: Vec<f64> = restart.iter().map(|r| (1.0 - DAMPING) * r).collect();
        let mut lost = 0.0;
        for (index, out) in edges.iter().enumerate() {
            let total: f64 = out.iter().map(|(_, weight)| weight).sum();
            if total <= 0.0 {
                lost += scores[index];
                continue;
            }
            for (target, weight) in out {
                next[*target] += DAMPING * scores[index] * weight / total;
            }
        }
        next.iter_mut().zip(&restart).for_each(|(score, r)| *score += DAMPING * lost * r);
        scores = next;
    }
    // What the focus names is shown even where nothing refers to it.
    let top = scores.iter().copied().fold(0.0, f64::max);
    let most = about.iter().copied().fold(0.0, f64::max);
    if most > 0.0 {
        scores.iter_mut().zip(&about).for_each(|(score, a)| *score += top * a / most);
    }
    Rank { files: scores, uses }
}

fn relevance(file: &Read, words: &BTreeSet<String>, focus: &[String]) -> f64 {
    let named = focus.iter().any(|item| {
        let item = item.trim().trim_start_matches("./").trim_end_matches('/');
        !item.is_empty()
            && (item == file.path || file.path.strip_prefix(item).is_some_and(|rest| rest.starts_with('/')))
    });
    let in_path = subwords(&file.path).iter().filter(|word| is_word(word, words)).count();
    let in_names = file.symbols.iter().filter(|symbol| is_about(&symbol.name, words)).count();
    let quoted = focus.iter().any(|item| file.symbols.iter().any(|symbol| symbol.name == item.trim()));
    f64::from(u8::from(named)) * 20.0
        + f64::from(u8::from(quoted)) * 10.0
        + in_path as f64 * 3.0
        + (in_names.min(20) as f64).sqrt()
}

/// What a reader sees of one file: its path and the names that matter most, in the order of their lines.
fn block(file: &Read, rank: &Rank, words: &BTreeSet<String>) -> String {
    let weigh = |symbol: &Symbol| -> (bool, usize, bool) {
        let name = last_part(&symbol.name);
        (is_about(name, words), rank.uses.get(name).copied().unwrap_or(0), symbol.indent == 0)
    };
    let mut symbols: Vec<&Symbol> = file.symbols.iter().collect();
    symbols.sort_by(|a, b| weigh(b).cmp(&weigh(a)).then(a.line.cmp(&b.line)));
    symbols.truncate(NAMES);
    symbols.sort_by_key(|symbol| symbol.line);
    let mut text = format!("{}\n", file.path);
    for symbol in &symbols {
        let _ = writeln!(text, "  {}: {}{}", symbol.line, " ".repeat((symbol.indent / 2).min(6)), symbol.signature);
    }
    if file.symbols.len() > symbols.len() {
        let _ = writeln!(text, "  [{} more names]", file.symbols.len() - symbols.len());
    }
    text
}

/// How many files the folders hold, and the files at the root.
fn overview(entries: &[Entry], complete: bool) -> String {
    let mut folders: BTreeMap<String, usize> = BTreeMap::new();
    let mut root = Vec::new();
    for entry in entries {
        let parts: Vec<&str> = entry.path.split('/').collect();
        match parts.as_slice() {
            [name] => root.push(*name),
            [folder, _] => *folders.entry(format!("{folder}/")).or_default() += 1,
            [folder, below, ..] => *folders.entry(format!("{folder}/{below}/")).or_default() += 1,
            [] => {}
        }
    }
    let more = if complete { "" } else { " or more" };
    let mut text = format!("{}{more} files. At the root: ", entries.len());
    text.push_str(&root.iter().take(FOLDERS).copied().collect::<Vec<_>>().join(" "));
    if root.len() > FOLDERS {
        let _ = write!(text, " [{} more]", root.len() - FOLDERS);
    }
    text.push_str("\nFolders:");
    // The largest, then in path order.
    let mut largest: Vec<(&String, &usize)> = folders.iter().collect();
    largest.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    largest.truncate(FOLDERS);
    largest.sort();
    for (folder, count) in &largest {
        let _ = write!(text, " {folder}({count})");
    }
    if folders.len() > largest.len() {
        let _ = write!(text, " [{} more]", folders.len() - largest.len());
    }
    text.truncate(text.floor_char_boundary(MAP_BYTES / 4));
    text.push_str("\n\n");
    text
}

/// The words of the focus that say something, in lower case.
fn focus_words(focus: &[String]) -> BTreeSet<String> {
    let common = [
        "the", "and", "for", "that", "with", "this", "from", "into", "when", "must", "should", "not", "are", "all",
        "new", "add", "fix", "use", "los", "las", "que", "con", "por", "para", "del", "una", "uno", "der", "die",
        "das", "und", "src", "lib", "file", "files", "code", "test", "tests",
    ];
    focus
        .iter()
        .flat_map(|text| subwords(text))
        .filter(|word| word.chars().count() > 2 && !common.contains(&word.as_str()))
        .take(FOCUS_WORDS)
        .collect()
}

fn is_about(name: &str, words: &BTreeSet<String>) -> bool {
    !words.is_empty() && subwords(name).iter().any(|word| is_word(word, words))
}

/// Equal, or alike up to an ending: `validate` and `validation`, `venta` and `ventas`.
fn is_word(word: &str, words: &BTreeSet<String>) -> bool {
    words.contains(word)
        || words.iter().any(|other| {
            let shared = word.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
            shared >= 5 && shared * 10 >= word.len().max(other.len()) * 7
        })
}

/// `parseHTTPRequest_now` as `parse`, `http`, `request`, `now`.
fn subwords(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut chars = text.chars().peekable();
    let mut before = ' ';
    while let Some(c) = chars.next() {
        let starts = c.is_uppercase()
            && (before.is_lowercase() || before.is_numeric() || chars.peek().is_some_and(|next| next.is_lowercase()));
        if (!c.is_alphanumeric() || starts) && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        }
        before = c;
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

fn identifiers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| word.len() > 2)
}

fn last_part(name: &str) -> &str {
    name.rsplit(['.', ':']).next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::super::files::{MemoryTree, TreeSource};
    use super::*;

    fn shop() -> TreeSource<MemoryTree> {
        let mut files: Vec<(String, String)> = vec![
            ("README.md".into(), "shop".into()),
            ("app/core.py".into(), "def connect():\n    pass\n\nclass Base:\n    pass\n".into()),
            (
                "app/ventas.py".into(),
                "from core import connect, Base\nclass Venta(Base):\n    def validar_stock(self):\n        connect()\n"
                    .into(),
            ),
            ("app/vendor/lib.py".into(), "def foreign():\n    pass\n".into()),
        ];
        for i in 0..40 {
            files.push((
                format!("app/mod_{i:02}.py"),
                format!("from core import connect\ndef job_{i}():\n    connect()\n"),
            ));
        }
        TreeSource::new(MemoryTree::new(files)).expect("a tree")
    }

    #[test]
    fn hubs_and_focus_come_first_and_bytes_are_the_same() {
        let source = shop();
        let map = repo_map(&source, &[], MAP_BYTES, &|| false).expect("a map");
        assert!(map.starts_with("44 files. At the root: README.md\nFolders: app/(42) app/vendor/(1)\n\napp/core.py\n  1: def connect()\n"), "{map}");
        assert!(!map.contains("foreign"));
        let focus = ["Validar stock negativo en ventas".to_owned()];
        let map = repo_map(&source, &focus, MAP_BYTES, &|| false).expect("a map");
        let place = |needle: &str| map.find(needle).unwrap_or(usize::MAX);
        assert!(
            place("app/ventas.py") < place("app/mod_00.py") && place("def validar_stock(self)") < usize::MAX,
            "{map}"
        );
        assert!(place("app/ventas.py") < place("app/core.py"), "{map}");
        for _ in 0..5 {
            assert_eq!(repo_map(&shop(), &focus, MAP_BYTES, &|| false).expect("a map"), map);
        }
        let named = repo_map(&source, &["app/mod_31.py".to_owned()], MAP_BYTES, &|| false).expect("a map");
        assert!(named.find("app/mod_31.py").expect("there") < named.find("app/mod_00.py").expect("there"));
    }

    #[test]
    fn the_budget_holds() {
        let source = shop();
        for limit in [0, 100, 500, 2_000] {
            let map = repo_map(&source, &[], limit, &|| false).expect("a map");
            assert!(map.len() <= limit, "{} > {limit}", map.len());
        }
        assert!(repo_map(&source, &[], 700, &|| false).expect("a map").contains("more source files"));
        let empty = TreeSource::new(MemoryTree::default()).expect("a tree");
        assert!(repo_map(&empty, &["x".to_owned()], MAP_BYTES, &|| false).expect("a map").starts_with("0 files."));
    }

    #[test]
    fn words() {
        assert_eq!(subwords("parseHTTPRequest_now2x"), ["parse", "http", "request", "now2x"]);
        let words: BTreeSet<String> = ["validate".to_owned(), "ventas".to_owned()].into();
        assert!(is_about("Validation", &words) && is_about("venta", &words) && !is_about("valid", &words));
    }
}
