//! The description of the API (OpenAPI 3.1), made of the table of routes and of the handlers' types.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{Answer, Place, ROUTES, Route, of};
use crate::frontends::web::problem::{MEDIA_TYPE, Problem};

/// The description.
pub fn description() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for route in ROUTES {
        let operation = operation(route, &mut generator);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method] = operation;
    }
    let schemas = generator.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "dev-orchestrator",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "From a task to a pushed branch: submit, approve, watch. Every channel says the same.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer",
                "description": "the owner's token is in the file `token` of the home; users have theirs"}},
        },
        "security": [{"token": []}],
    })
}

fn operation(route: &Route, generator: &mut schemars::SchemaGenerator) -> Value {
    let parameters: Vec<Value> = route
        .parameters
        .iter()
        .map(|parameter| {
            let place = match parameter.place {
                Place::Path => "path",
                Place::Query => "query",
                Place::Header => "header",
            };
            json!({"name": parameter.name, "in": place, "required": parameter.place == Place::Path,
                   "description": parameter.about, "schema": {"type": "string"}})
        })
        .collect();
    let mut responses = Map::new();
    for Answer { status, about, media, schema } in route.answers {
        let schema = schema.map_or_else(|| json!({}), |schema| schema(generator).to_value());
        responses.insert(status.to_string(), json!({"description": about, "content": {*media: {"schema": schema}}}));
    }
    let common: &[u16] = if route.open { &[421, 429, 500] } else { &[401, 421, 429, 500] };
    let problem = of::<Problem>(generator).to_value();
    for status in route.problems.iter().chain(common) {
        let word = axum::http::StatusCode::from_u16(*status).ok().and_then(|status| status.canonical_reason());
        let description = word.unwrap_or("A problem");
        responses
            .entry(status.to_string())
            .or_insert_with(|| json!({"description": description, "content": {MEDIA_TYPE: {"schema": problem}}}));
    }
    let mut operation = json!({"summary": route.about, "parameters": parameters, "responses": responses});
    if let Some(body) = route.body {
        let schema = body(generator).to_value();
        operation["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": schema}}});
    }
    if route.open {
        operation["security"] = json!([]);
    }
    operation
}
