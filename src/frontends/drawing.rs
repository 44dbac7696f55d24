//! A pipeline's steps as a picture (SVG) that stands on its own: no script, no style sheet, nothing to load. It knows the
//! graph, and the words of states where there are any; not where the picture is shown.

use std::fmt::Write as _;

use crate::core::graph::{Graph, OnFailure};
use crate::frontends::plain::clip;

/// Width of a step's box, in pixels.
const WIDE: usize = 118;
/// Height of a step's box.
const HIGH: usize = 46;
/// Between two columns.
const GAP_X: usize = 30;
/// Between two rows.
const GAP_Y: usize = 18;
/// Around everything, and for the ways back below.
const MARGIN: usize = 12;
/// Letters of an id that fit into a box.
const LETTERS: usize = 14;

/// How deep each step lies: steps of one depth may run side by side.
pub fn depths(graph: &Graph) -> Vec<usize> {
    let mut left: Vec<usize> = (0..graph.len()).map(|at| graph.needs(at).count()).collect();
    let mut depth = vec![0; graph.len()];
    let mut ready: std::collections::VecDeque<usize> = (0..graph.len()).filter(|at| left[*at] == 0).collect();
    while let Some(at) = ready.pop_front() {
        for next in graph.dependents(at) {
            depth[next] = depth[next].max(depth[at] + 1);
            left[next] -= 1;
            if left[next] == 0 {
                ready.push_back(next);
            }
        }
    }
    depth
}

/// The ways back of a step, by what leads there.
pub fn ways_back(graph: &Graph, at: usize) -> Vec<(usize, &'static str)> {
    let node = graph.node(at);
    let rewind = match &node.on_failure {
        OnFailure::Rewind { to, .. } => graph.find(to).map(|to| (to, "failure")),
        _ => None,
    };
    let revise = node.revise.as_ref().and_then(|to| graph.find(to)).map(|to| (to, "revise"));
    rewind.into_iter().chain(revise).collect()
}

/// Background and border of a box, by its step's state; they can be read on light and on dark paper.
fn colours(state: &str) -> (&'static str, &'static str) {
    match state {
        "succeeded" => ("#d9f2e0", "#1f7a3f"),
        "failed" => ("#fbdcd9", "#b3261e"),
        "running" => ("#d8e8fd", "#1a5fb4"),
        "waiting" => ("#fdeec4", "#8a5a00"),
        "skipped" | "cancelled" => ("#e6e6e6", "#777777"),
        _ => ("#f6f6f4", "#8c8c86"),
    }
}

/// The picture. `states` has a word per step, as in a run's document.
pub fn svg(graph: &Graph, states: Option<&[&str]>) -> String {
    let depth = depths(graph);
    let columns = depth.iter().max().map_or(0, |deepest| deepest + 1);
    let mut rows = vec![0; columns];
    let mut place = Vec::with_capacity(graph.len());
    for &column in &depth {
        place.push((MARGIN + column * (WIDE + GAP_X), MARGIN + rows[column] * (HIGH + GAP_Y)));
        rows[column] += 1;
    }
    let back = (0..graph.len()).flat_map(|at| ways_back(graph, at).into_iter().map(move |(to, why)| (at, to, why)));
    let back: Vec<(usize, usize, &str)> = back.collect();
    let bottom = MARGIN + rows.iter().max().unwrap_or(&0) * (HIGH + GAP_Y);
    let width = 2 * MARGIN + columns * (WIDE + GAP_X) - if columns > 0 { GAP_X } else { 0 };
    let height = bottom + MARGIN + back.len() * GAP_Y;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\" role=\"img\">\n<defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" \
         refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto-start-reverse\"><path d=\"M0 0L8 4L0 8z\" fill=\"#8c8c86\"/>\
         </marker></defs>\n"
    );
    for (at, &(x, y)) in place.iter().enumerate() {
        for need in graph.needs(at) {
            let (from_x, from_y) = place[need];
            let (x1, y1, x2, y2) = (from_x + WIDE, from_y + HIGH / 2, x, y + HIGH / 2);
            let half = GAP_X / 2;
            let _ = writeln!(
                out,
                "<path d=\"M{x1} {y1}C{} {y1} {} {y2} {x2} {y2}\" fill=\"none\" stroke=\"#8c8c86\" stroke-width=\"1.5\" \
                 marker-end=\"url(#tip)\"/>",
                x1 + half,
                x2 - half
            );
        }
    }
    for (row, (from, to, why)) in back.iter().enumerate() {
        let (from_x, from_y) = (place[*from].0 + WIDE / 2, place[*from].1 + HIGH);
        let (to_x, to_y) = (place[*to].0 + WIDE / 2 + 12, place[*to].1 + HIGH + 2);
        let low = bottom + row * GAP_Y;
        let _ = writeln!(
            out,
            "<path d=\"M{from_x} {from_y}V{low}H{to_x}V{to_y}\" fill=\"none\" stroke=\"#8c8c86\" stroke-dasharray=\"4 3\" \
             marker-end=\"url(#tip)\"/><text x=\"{}\" y=\"{}\" text-anchor=\"middle\" font-size=\"11\" fill=\"#8c8c86\">{why}</text>",
            (from_x + to_x) / 2,
            low - 4
        );
    }
    for (at, &(x, y)) in place.iter().enumerate() {
        let node = graph.node(at);
        let state = states.and_then(|states| states.get(at).copied()).unwrap_or_default();
        let (fill, border) = colours(state);
        // The colour says the state; whoever points at the box reads it.
        let title = if state.is_empty() { node.id.to_string() } else { format!("{}: {state}", node.id) };
        let (id, second) = (escaped(&clip(node.id.as_str(), LETTERS)), escaped(&clip(&node.kind, LETTERS + 2)));
        let _ = writeln!(
            out,
            "<g><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{WIDE}\" height=\"{HIGH}\" rx=\"8\" fill=\"{fill}\" \
             stroke=\"{border}\" stroke-width=\"1.5\"/><text x=\"{}\" y=\"{}\" fill=\"#1c1c1a\" font-weight=\"600\">{id}</text>\
             <text x=\"{}\" y=\"{}\" fill=\"#4a4a46\" font-size=\"11\">{second}</text></g>",
            escaped(&title),
            x + 10,
            y + 20,
            x + 10,
            y + 36
        );
    }
    out.push_str("</svg>\n");
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::graph::Node;
    use crate::core::id::StepId;

    #[test]
    fn every_step_and_every_need_is_drawn_and_it_is_xml() {
        let id = |text: &str| StepId::new(text).unwrap();
        let node = |name: &str, needs: &[&str]| Node {
            needs: needs.iter().map(|need| id(need)).collect(),
            ..Node::new(id(name), "<b>&\"")
        };
        let last = Node { on_failure: OnFailure::Rewind { to: id("b"), rounds: 2 }, ..node("d", &["b", "c"]) };
        let graph = Graph::new(vec![node("a", &[]), node("b", &["a"]), node("c", &["a"]), last]).unwrap();
        for states in [None, Some(&["succeeded", "failed", "running", "odd"][..])] {
            let drawn = svg(&graph, states);
            let document = roxmltree::Document::parse(&drawn).unwrap();
            let count = |name: &str| document.descendants().filter(|node| node.has_tag_name(name)).count();
            assert_eq!((count("rect"), count("path")), (4, 1 + 4 + 1));
        }
        assert!(svg(&Graph::new(vec![node("a", &[])]).unwrap(), None).starts_with("<svg"));
    }
}
