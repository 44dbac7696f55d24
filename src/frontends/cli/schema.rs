//! `devo schema`: the JSON Schemas of what people write, for editors.

use std::path::PathBuf;

use clap::Args as _;
use serde_json::{Map, Value};

use super::{Cx, Entry, Group, parsed};
use crate::app;
use crate::error::{Error, Exit};

pub const ENTRY: Entry = Entry {
    name: "schema",
    group: Group::Write,
    about: "Print the JSON Schemas, or write them",
    examples: "devo schema --write                    # into the home's schemas/\n\
               devo schema --write --to ./schemas\n\
               devo schema | jq '.[\"pipeline.schema.json\"]'",
    augment: Args::augment_args,
    run: |cx, matches| schema(cx, &parsed(matches)?),
};

#[derive(Debug, clap::Args)]
struct Args {
    /// Write the files instead of printing them
    #[arg(long)]
    write: bool,
    /// The folder to write to [default: schemas/ of the home]
    #[arg(long, value_name = "DIR", requires = "write")]
    to: Option<PathBuf>,
}

fn schema(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    let schemas = app::schemas()?;
    if !args.write {
        let all: Map<String, Value> = schemas.into_iter().collect();
        cx.out.line(&format!("{:#}", Value::Object(all)));
        return Ok(Exit::Completed);
    }
    let folder = match &args.to {
        Some(folder) => folder.clone(),
        None => cx.settings.places.find()?.join("schemas"),
    };
    let failed = |path: &std::path::Path, error: &std::io::Error| {
        Error::machine("schema", format!("cannot write {}", path.display()), error)
    };
    std::fs::create_dir_all(&folder).map_err(|error| failed(&folder, &error))?;
    for (name, schema) in schemas {
        let path = folder.join(&name);
        std::fs::write(&path, format!("{schema:#}\n")).map_err(|error| failed(&path, &error))?;
        cx.out.line(&path.display().to_string());
    }
    Ok(Exit::Completed)
}
