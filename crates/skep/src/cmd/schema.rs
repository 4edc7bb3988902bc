//! `skep schema`: JSON Schemas, for editors and for checks elsewhere.

use std::process::ExitCode;

use anyhow::bail;
use serde_json::{Value, json};
use skep_api::crd::Kind;
use skep_api::crd::definition::schema;
use skep_api::runconfig::RunConfig;

use crate::cmd::report::print;

/// Prints the JSON Schema of a file format.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// `runconfig`, or a kind such as `MCPRemoteProxy`.
    #[arg(default_value = "runconfig", value_name = "NAME")]
    name: String,
}

/// Prints.
///
/// # Errors
/// When there is no schema of that name.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let found = if args.name == "runconfig" {
        schemars::schema_for!(RunConfig).to_value()
    } else if let Some(kind) =
        Kind::ALL.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(&args.name))
    {
        of_kind(kind)
    } else {
        let kinds: Vec<&str> = Kind::ALL.into_iter().map(Kind::as_str).collect();
        bail!("there is no schema of the name `{}`; there are runconfig, {}", args.name, kinds.join(", "));
    };
    print(&format!("{}\n", serde_json::to_string_pretty(&found)?))?;
    Ok(ExitCode::SUCCESS)
}

fn of_kind(kind: Kind) -> Value {
    let mut found = schema(kind);
    if let Some(map) = found.as_object_mut() {
        map.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
        map.insert("title".to_owned(), kind.as_str().into());
    }
    if let Some(properties) = found.pointer_mut("/properties").and_then(Value::as_object_mut) {
        let versions: Vec<String> =
            kind.versions().iter().rev().map(|version| version.api_version()).collect();
        properties.insert("apiVersion".to_owned(), json!({"enum": versions}));
        properties.insert("kind".to_owned(), json!({"const": kind.as_str()}));
    }
    found
}
