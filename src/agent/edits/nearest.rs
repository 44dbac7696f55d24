//! Finds the lines of a file that look most like a text that is not in it. Pure, and linear in the file.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::super::truncate::cut_middle;

/// The most bytes shown: with the sentence around it a refusal stays under 2 KB.
const SHOWN: usize = 1_600;
/// The longest window of lines that is compared.
const WINDOW: usize = 40;
/// Lines shown on each side.
const AROUND: usize = 3;
/// The most bytes of one line that count.
const LINE: usize = 400;

/// The number of the first line shown, from 1, and the lines most like `wanted`; none where nothing is like it.
pub fn nearest_lines(text: &str, wanted: &str) -> Option<(usize, String)> {
    let whole: HashSet<&str> = wanted.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut weights: HashMap<&str, f64> = wanted.lines().flat_map(words).map(|word| (word, 0.0)).collect();
    let lines: Vec<&str> = text.lines().collect();
    for word in lines.iter().flat_map(|line| words(line)) {
        if let Some(count) = weights.get_mut(word) {
            *count += 1.0;
        }
    }
    // Rare words say more about the place than common ones.
    weights.values_mut().filter(|count| **count > 0.0).for_each(|count| *count = 1.0 / count.sqrt());
    let score = |line: &str| -> f64 {
        let alike = whole.contains(line.trim());
        let shared: f64 = words(line).collect::<BTreeSet<_>>().iter().filter_map(|word| weights.get(word)).sum();
        if alike { shared * 2.0 + 0.5 } else { shared }
    };
    let scores: Vec<f64> = lines.iter().map(|line| score(line)).collect();
    let width = wanted.lines().count().clamp(1, WINDOW).min(lines.len().max(1));
    let (mut best, mut best_score) = (0, 0.0);
    for start in 0..(lines.len() + 1).saturating_sub(width) {
        let sum: f64 = scores[start..start + width].iter().sum();
        if sum > best_score + 1e-9 {
            (best, best_score) = (start, sum);
        }
    }
    if best_score < 0.2 {
        return None;
    }
    let from = best.saturating_sub(AROUND);
    let shown = lines[from..(best + width + AROUND).min(lines.len())].join("\n");
    Some((from + 1, cut_middle(&shown, SHOWN, 50, None)))
}

/// The words of a line, of two letters or more.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let end = super::floor_char_boundary(line, LINE);
    line[..end].split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| word.len() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_region_is_shown() {
        let mut text: String = (0..500).map(|i| format!("let value_{i} = compute(value);\n")).collect();
        text.push_str("fn target(stock: i64) -> bool {\n    stock >= 0\n}\n");
        text.push_str(&"let other = compute(value);\n".repeat(300));
        let (from, shown) = nearest_lines(&text, "fn target(stock: u64) {\n    stock > 0\n}").expect("something alike");
        assert!((495..=501).contains(&from), "{from}");
        assert!(shown.contains("fn target(stock: i64) -> bool"), "{shown}");
        assert!(nearest_lines("alpha\nbeta\n", "gamma delta").is_none());
        assert!(nearest_lines("", "x").is_none());
        let long = format!("target {}\n", "word ".repeat(100_000));
        assert!(nearest_lines(&long, "target here").expect("found").1.len() <= 1_700);
    }
}
