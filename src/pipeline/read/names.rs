//! What steps call each other: ids that exist, an order without cycles, and references to what comes before.

use std::collections::{BTreeMap, BTreeSet};

use super::{Draft, Reader};
use crate::core::graph::{Authority, Graph, GraphError, OnFailure};
use crate::core::id::StepId;
use crate::pipeline::Input;
use crate::templates::{Mode, references};
use crate::yaml::{Kind, Node, Span};

impl<'d> Reader<'d> {
    /// Turns names into ids that exist.
    pub(super) fn resolve(&mut self, drafts: &mut [Draft<'d>]) {
        let ids: BTreeSet<String> = drafts.iter().map(|draft| draft.def.id.to_string()).collect();
        for draft in drafts {
            for (name, span) in &draft.needs {
                if *name == draft.key.text {
                    self.fault(span.clone(), "cycle", format!("step `{name}` needs itself"));
                } else if !ids.contains(name) {
                    self.fault(span.clone(), "unknown_step", format!("`needs` names `{name}`, which is not a step"));
                    self.advise(|fault| fault.suggest(name, ids.iter().map(String::as_str)));
                } else if let Ok(id) = StepId::new(name) {
                    draft.def.needs.push(id);
                }
            }
            for (key, name, span) in &draft.targets {
                if !ids.contains(name) {
                    self.fault(span.clone(), "unknown_step", format!("`{key}` names `{name}`, which is not a step"));
                    self.advise(|fault| fault.suggest(name, ids.iter().map(String::as_str)));
                } else if *key == "revise" {
                    draft.def.revise = StepId::new(name).ok();
                }
            }
        }
    }

    /// Cycles, targets that do not come before, steps that act unapproved: each is searched for by itself, so that one does not
    /// hide the next.
    pub(super) fn graph(&mut self, drafts: &[Draft<'d>]) {
        let ids: BTreeSet<&StepId> = drafts.iter().map(|draft| &draft.def.id).collect();
        if ids.len() < drafts.len() {
            return;
        }
        let spans: BTreeMap<&StepId, Span> =
            drafts.iter().map(|draft| (&draft.def.id, draft.key.span.clone())).collect();
        let mut nodes: Vec<_> = nodes_of(drafts);
        // Each round mends what it reports, so the number of rounds is bounded by what there is to mend.
        for _ in 0..=2 * nodes.len() {
            match Graph::new(nodes.clone()) {
                Ok(_) => return,
                Err(GraphError::Cycle(path)) => {
                    let span = spans.get(&path[0]).cloned().unwrap_or(0..0);
                    self.fault(span, "cycle", GraphError::Cycle(path.clone()).to_string());
                    self.advise(|fault| fault.help("take one of these `needs` away"));
                    let (from, needed) = (&path[0], &path[1]);
                    if let Some(node) = nodes.iter_mut().find(|node| node.id == *from) {
                        node.needs.retain(|need| need != needed);
                    }
                }
                Err(GraphError::NotUpstream { step, to }) => {
                    let draft = drafts.iter().find(|draft| draft.def.id == step);
                    let target = draft.and_then(|draft| draft.targets.iter().find(|(_, name, _)| name == to.as_str()));
                    let span = target.map_or(0..0, |(_, _, span)| span.clone());
                    let error = GraphError::NotUpstream { step: step.clone(), to };
                    self.fault(span, "not_upstream", error.to_string());
                    if let Some(node) = nodes.iter_mut().find(|node| node.id == step) {
                        node.on_failure = OnFailure::Stop;
                        node.revise = None;
                    }
                }
                Err(GraphError::Unapproved(step)) => {
                    let span = spans.get(&step).cloned().unwrap_or(0..0);
                    self.fault(span, "unapproved", GraphError::Unapproved(step.clone()).to_string());
                    self.advise(|fault| fault.help("nothing runs without an approval: plan → approve → …"));
                    if let Some(node) = nodes.iter_mut().find(|node| node.id == step) {
                        node.authority = Authority::Free;
                    }
                }
                // Reported with their positions before.
                Err(GraphError::Unknown { .. } | GraphError::Duplicate(_)) => return,
            }
        }
    }

    /// Templates and expressions: their grammar, and that every name exists and comes before.
    pub(super) fn templates(&mut self, drafts: &mut [Draft<'d>], inputs: &[(String, Input)]) {
        let before = ancestors(drafts);
        let ids: BTreeSet<String> = drafts.iter().map(|draft| draft.def.id.to_string()).collect();
        for (draft, before) in drafts.iter_mut().zip(before) {
            let mut texts: Vec<(&'d Node, Mode)> = Vec::new();
            texts.extend(draft.node.get("if").map(|node| (node, Mode::Expression)));
            texts.extend(draft.node.get("env").into_iter().flat_map(Node::entries).map(|(_, node)| (node, Mode::Text)));
            let own = draft.kind.map_or(&[][..], |kind| kind.templates);
            texts.extend(own.iter().filter_map(|(key, mode)| Some((draft.node.get(key)?, *mode))));
            for (node, mode) in texts {
                let Some(text) = node.as_str() else { continue };
                match references(text, mode) {
                    Ok(names) => {
                        for name in names {
                            self.reference(&name, node, &ids, &before, inputs, &mut draft.def.references);
                        }
                    }
                    Err(error) => {
                        let wrong = error.range.and_then(|range| text.get(range));
                        let span = wrong.map_or(node.span.clone(), |wrong| self.inside(node, wrong));
                        let code = if mode == Mode::Expression { "bad_expression" } else { "bad_template" };
                        self.fault(span, code, error.message);
                        if text.contains("{#") {
                            self.advise(|fault| {
                                fault.help(
                                    "`{#` begins a comment of templates; write it as {% raw %}${#NAME}{% endraw %}",
                                )
                            });
                        }
                    }
                }
            }
        }
    }

    /// Where a piece of a scalar's value stands in the file, if it stands there as it is.
    fn inside(&self, node: &Node, piece: &str) -> Span {
        let source = self.document.text.get(node.span.clone()).unwrap_or_default();
        match source.find(piece).filter(|_| !piece.is_empty()) {
            Some(at) => node.span.start + at..node.span.start + at + piece.len(),
            None => node.span.clone(),
        }
    }

    fn reference(
        &mut self,
        name: &str,
        node: &Node,
        ids: &BTreeSet<String>,
        before: &BTreeSet<String>,
        inputs: &[(String, Input)],
        used: &mut BTreeSet<StepId>,
    ) {
        let span = self.inside(node, name);
        let mut parts = name.split('.');
        match (parts.next().unwrap_or_default(), parts.next()) {
            ("inputs", Some(input)) => {
                if !inputs.iter().any(|(known, _)| known == input) {
                    self.fault(span, "unknown_input", format!("the pipeline has no input `{input}`"));
                    self.advise(|fault| fault.suggest(input, inputs.iter().map(|(known, _)| known.as_str())));
                }
            }
            ("steps", Some(step)) => {
                if !ids.contains(step) {
                    self.fault(span, "unknown_step", format!("there is no step `{step}`"));
                    self.advise(|fault| fault.suggest(step, ids.iter().map(String::as_str)));
                } else if !before.contains(step) {
                    let message = format!("step `{step}` does not come before this one, so it has no output yet");
                    self.fault(span, "not_upstream", message);
                    self.advise(|fault| fault.help(format!("add `{step}` to `needs`")));
                } else {
                    if let Some(field) = parts.next().filter(|field| !["output", "state"].contains(field)) {
                        self.fault(span, "unknown_name", format!("a step has `output` and `state`, not `{field}`"));
                    }
                    used.extend(StepId::new(step).ok());
                }
            }
            ("run", Some(field)) => {
                const FIELDS: [&str; 5] = ["id", "short_id", "pipeline", "task", "repo"];
                if !FIELDS.contains(&field) {
                    self.fault(span, "unknown_name", format!("`run` has no `{field}`"));
                    self.advise(|fault| fault.suggest(field, FIELDS));
                }
            }
            ("inputs" | "steps" | "run" | "range" | "dict" | "namespace" | "loop", _) => {}
            (other, _) => {
                self.fault(span, "unknown_name", format!("`{other}` is not known here"));
                self.advise(|fault| fault.suggest(other, ["inputs", "steps", "run"]));
            }
        }
    }
}

fn nodes_of(drafts: &[Draft<'_>]) -> Vec<crate::core::graph::Node> {
    let node = |draft: &Draft<'_>| {
        let def = &draft.def;
        let mut node = crate::core::graph::Node::new(def.id.clone(), &def.kind);
        node.needs = def.needs.clone();
        node.authority = draft.kind.map_or(Authority::Free, |kind| kind.authority);
        node.revise = def.revise.clone();
        if let OnFailure::Rewind { to, .. } = &def.on_failure
            && drafts.iter().any(|other| other.def.id == *to)
        {
            node.on_failure = def.on_failure.clone();
        }
        node
    };
    drafts.iter().map(node).collect()
}

/// For each step the ids that come before it; follows `needs` also through cycles, which are reported elsewhere.
fn ancestors(drafts: &[Draft<'_>]) -> Vec<BTreeSet<String>> {
    let needs: BTreeMap<&str, Vec<&str>> = drafts
        .iter()
        .map(|draft| (draft.def.id.as_str(), draft.def.needs.iter().map(StepId::as_str).collect()))
        .collect();
    let all = |start: &str| {
        let mut seen: BTreeSet<String> = BTreeSet::new();
        let mut next: Vec<&str> = needs.get(start).cloned().unwrap_or_default();
        while let Some(id) = next.pop() {
            if seen.insert(id.to_owned()) {
                next.extend(needs.get(id).into_iter().flatten());
            }
        }
        seen
    };
    // Only steps that use templates need the set; without any, a long chain costs nothing.
    drafts
        .iter()
        .map(|draft| {
            let keys = draft.kind.map_or(&[][..], |kind| kind.templates);
            let has = |key: &str| draft.node.get(key).is_some_and(mentions_steps);
            if keys.iter().any(|(key, _)| has(key)) || has("if") || has("env") {
                all(draft.def.id.as_str())
            } else {
                BTreeSet::new()
            }
        })
        .collect()
}

fn mentions_steps(node: &Node) -> bool {
    match &node.kind {
        Kind::Text(text) => text.contains("steps"),
        _ => node.entries().iter().any(|(_, value)| mentions_steps(value)),
    }
}
