//! The page that submits a task.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Redirect};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Frame, Page, page, problem_page};
use crate::app::PipelineView;
use crate::config::UserRole;
use crate::error::{Error, Exit};
use crate::frontends::web::Site;
use crate::frontends::web::api::runs::hand_in;
use crate::frontends::web::guard::{SignedForm, Visitor};
use crate::frontends::web::problem::Problem;

/// The pipeline that is offered first.
const USUAL: &str = "dev-task";

#[derive(Serialize)]
struct Values {
    pipelines: Vec<PipelineView>,
    repos: Vec<String>,
    chosen: Option<PipelineView>,
    pipeline: String,
    repo: String,
    task: String,
    given: HashMap<String, String>,
    key: String,
    wrong: String,
    hint: String,
}

async fn values(site: &Site, given: HashMap<String, String>) -> Result<Values, Error> {
    let app = site.app.clone();
    let pipelines = tokio::task::spawn_blocking(move || app.pipelines()).await;
    let mut pipelines = pipelines.map_err(|error| Error::bug(error.to_string()))?;
    pipelines.retain(|pipeline| pipeline.problems.is_empty());
    let text = |name: &str| given.get(name).cloned().unwrap_or_default();
    let named = text("pipeline");
    let find = |name: &str| pipelines.iter().find(|pipeline| pipeline.name == name).cloned();
    let chosen = find(&named).or_else(|| find(USUAL)).or_else(|| pipelines.first().cloned());
    let repos: Vec<String> = site.app.config().repos.keys().cloned().collect();
    let repo = if text("repo").is_empty() && repos.len() == 1 { repos[0].clone() } else { text("repo") };
    // A form that is sent twice is one run: the key comes with the page.
    let key = if text("key").is_empty() { super::super::secret::token()? } else { text("key") };
    Ok(Values {
        pipeline: chosen.as_ref().map(|pipeline| pipeline.name.clone()).unwrap_or_default(),
        pipelines,
        repos,
        chosen,
        repo,
        task: text("task"),
        given,
        key,
        wrong: String::new(),
        hint: String::new(),
    })
}

/// GET /new; words of the address fill the form.
pub async fn show(
    State(site): State<Arc<Site>>,
    visitor: Visitor,
    Query(mut given): Query<HashMap<String, String>>,
    headers: HeaderMap,
    uri: Uri,
) -> Page {
    let frame = Frame::of(&site, &headers, &uri, Some(&visitor)).await;
    given.remove("key");
    match values(&site, given).await {
        Ok(values) => page(&site, &frame, StatusCode::OK, "new.html", &values),
        Err(error) => Err(problem_page(&site, &frame, &Problem::from(error))),
    }
}

/// POST /new.
pub async fn submit(State(site): State<Arc<Site>>, headers: HeaderMap, uri: Uri, form: SignedForm) -> Page {
    let frame = Frame::of(&site, &headers, &uri, Some(&form.visitor)).await;
    if !form.visitor.person.may(UserRole::Submitter) {
        return Err(problem_page(&site, &frame, &Problem::forbidden(frame.w.may_not)));
    }
    let failed = |error: Error| problem_page(&site, &frame, &Problem::from(error));
    let mut shown = values(&site, form.fields.clone()).await.map_err(failed)?;
    if form.fields.contains_key("choose") {
        // Only the pipeline was chosen: the form comes again with its inputs.
        return page(&site, &frame, StatusCode::OK, "new.html", &shown);
    }
    match task(&form, shown.chosen.as_ref()) {
        Ok(task) => match hand_in(&site, &task, None, form.visitor.person.who("web")).await {
            Ok(submitted) => Ok(Redirect::to(&format!("/runs/{}", submitted.run)).into_response()),
            Err(error) if error.exit == Exit::Refused => {
                (shown.wrong, shown.hint) = (error.message, error.hint.unwrap_or_default());
                page(&site, &frame, StatusCode::UNPROCESSABLE_ENTITY, "new.html", &shown)
            }
            Err(error) => Err(failed(error)),
        },
        Err(wrong) => {
            shown.wrong = wrong;
            page(&site, &frame, StatusCode::UNPROCESSABLE_ENTITY, "new.html", &shown)
        }
    }
}

/// The form as a task.
fn task(form: &SignedForm, chosen: Option<&PipelineView>) -> Result<Map<String, Value>, String> {
    let mut task = Map::new();
    for name in ["pipeline", "repo", "task", "key"] {
        if !form.field(name).is_empty() {
            task.insert(name.to_owned(), Value::String(form.field(name).to_owned()));
        }
    }
    let mut inputs = Map::new();
    for input in chosen.map(|pipeline| pipeline.inputs.as_slice()).unwrap_or_default() {
        let text = form.field(&format!("input-{}", input.name));
        if text.is_empty() || input.name == "repo" || input.name == "task" {
            continue;
        }
        let value = match input.kind.as_str() {
            "string" => Some(Value::String(text.to_owned())),
            "boolean" => text.parse::<bool>().ok().map(Value::Bool),
            "integer" => text.parse::<i64>().ok().map(Value::from),
            _ => text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Value::from),
        };
        let value = value.ok_or_else(|| format!("`{}`: {} ({text})", input.name, input.kind))?;
        inputs.insert(input.name.clone(), value);
    }
    if !inputs.is_empty() {
        task.insert("inputs".to_owned(), Value::Object(inputs));
    }
    Ok(task)
}
