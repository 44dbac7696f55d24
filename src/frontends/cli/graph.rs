//! `devo graph`: the steps of a pipeline and what they need.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args as _;
use serde_json::json;

use super::{Cx, Entry, Group, parsed};
use crate::app;
use crate::core::graph::{Graph, OnFailure};
use crate::error::{Error, Exit};
use crate::frontends::drawing::{depths, svg, ways_back};

pub const ENTRY: Entry = Entry {
    name: "graph",
    group: Group::Write,
    about: "Draw a pipeline's steps and their order",
    examples: "devo graph pipelines/dev-task.yaml\n\
               devo graph pipelines/dev-task.yaml --format mermaid",
    augment: Args::augment_args,
    run: |cx, matches| graph(cx, &parsed(matches)?),
};

#[derive(Debug, clap::Args)]
struct Args {
    /// A pipeline file
    file: PathBuf,
    /// How to draw it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Mermaid,
    Dot,
    Svg,
}

fn graph(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    let graph = app::outline(&cx.settings, &args.file)?;
    if cx.json {
        let nodes: Vec<_> = graph.nodes().collect();
        cx.out.line(&json!({"steps": nodes}).to_string());
        return Ok(Exit::Completed);
    }
    let drawn = match args.format {
        Format::Text => text(&graph),
        Format::Mermaid => mermaid(&graph),
        Format::Dot => dot(&graph),
        Format::Svg => svg(&graph, None),
    };
    cx.out.write(&drawn);
    Ok(Exit::Completed)
}

/// A line per step, in an order in which they could run.
fn text(graph: &Graph) -> String {
    let depth = depths(graph);
    let mut order: Vec<usize> = (0..graph.len()).collect();
    order.sort_by_key(|at| (depth[*at], *at));
    let width = graph.nodes().map(|node| node.id.as_str().len()).max().unwrap_or(0);
    let kind = graph.nodes().map(|node| node.kind.len()).max().unwrap_or(0);
    let mut out = String::new();
    for at in order {
        let node = graph.node(at);
        let needs: Vec<&str> = node.needs.iter().map(|need| need.as_str()).collect();
        let mut notes = Vec::new();
        if !needs.is_empty() {
            notes.push(format!("after {}", needs.join(", ")));
        }
        match &node.on_failure {
            OnFailure::Stop => {}
            OnFailure::Continue => notes.push("its failure does not stop the run".to_owned()),
            OnFailure::Rewind { to, rounds } => notes.push(format!("on failure back to {to}, {rounds} times at most")),
        }
        if let Some(to) = &node.revise {
            notes.push(format!("a revision goes back to {to}"));
        }
        if node.always {
            notes.push("always runs".to_owned());
        }
        let line =
            format!("{:>3}  {:<width$}  {:<kind$}  {}", depth[at] + 1, node.id.as_str(), node.kind, notes.join("; "));
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// Step ids have an alphabet that needs no quoting in a label; `s0`, `s1` keep clear of the format's own words.
fn mermaid(graph: &Graph) -> String {
    let mut out = String::from("flowchart TD\n");
    for at in 0..graph.len() {
        let node = graph.node(at);
        let _ = writeln!(out, "  s{at}[\"{}<br/>{}\"]", node.id, node.kind);
    }
    for at in 0..graph.len() {
        for need in graph.needs(at) {
            let _ = writeln!(out, "  s{need} --> s{at}");
        }
        for (to, label) in ways_back(graph, at) {
            let _ = writeln!(out, "  s{at} -. {label} .-> s{to}");
        }
    }
    out
}

fn dot(graph: &Graph) -> String {
    let mut out = String::from("digraph pipeline {\n  node [shape=box];\n");
    for at in 0..graph.len() {
        let node = graph.node(at);
        let _ = writeln!(out, "  s{at} [label=\"{}\\n{}\"];", node.id, node.kind);
    }
    for at in 0..graph.len() {
        for need in graph.needs(at) {
            let _ = writeln!(out, "  s{need} -> s{at};");
        }
        for (to, label) in ways_back(graph, at) {
            let _ = writeln!(out, "  s{at} -> s{to} [style=dashed, constraint=false, label=\"{label}\"];");
        }
    }
    out.push_str("}\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::graph::Node;
    use crate::core::id::StepId;

    #[test]
    fn steps_side_by_side_have_one_depth_and_ways_back_are_drawn() {
        let id = |text: &str| StepId::new(text).unwrap();
        let node = |name: &str, needs: &[&str]| Node {
            needs: needs.iter().map(|need| id(need)).collect(),
            ..Node::new(id(name), "shell")
        };
        let last = Node { on_failure: OnFailure::Rewind { to: id("b"), rounds: 2 }, ..node("d", &["b", "c"]) };
        let graph = Graph::new(vec![last, node("b", &["a"]), node("a", &[]), node("c", &["a"])]).unwrap();
        insta::assert_snapshot!(text(&graph), @r"
          1  a  shell
          2  b  shell  after a
          2  c  shell  after a
          3  d  shell  after b, c; on failure back to b, 2 times at most
        ");
        insta::assert_snapshot!(mermaid(&graph), @r#"
        flowchart TD
          s0["d<br/>shell"]
          s1["b<br/>shell"]
          s2["a<br/>shell"]
          s3["c<br/>shell"]
          s3 --> s0
          s1 --> s0
          s0 -. failure .-> s1
          s2 --> s1
          s2 --> s3
        "#);
        insta::assert_snapshot!(dot(&graph), @r#"
        digraph pipeline {
          node [shape=box];
          s0 [label="d\nshell"];
          s1 [label="b\nshell"];
          s2 [label="a\nshell"];
          s3 [label="c\nshell"];
          s3 -> s0;
          s1 -> s0;
          s0 -> s1 [style=dashed, constraint=false, label="failure"];
          s2 -> s1;
          s2 -> s3;
        }
        "#);
    }
}
