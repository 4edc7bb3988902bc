//! `skep render`: what the operator would create, with no cluster.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};
use skep_api::yaml::to_yaml_documents;

use crate::cmd::report::{Report, complain, print};
use crate::manifest::{PlanOptions, load};

/// Prints the Kubernetes objects that the operator would create.
///
/// The objects come in the order in which they are applied. What is wrong goes to standard error; an object with an error
/// makes nothing, and then the exit code is 3.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// File or folder with manifests, or `-` for standard input. May be given more than once.
    #[arg(short = 'f', long = "filename", value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// A reference to something that the files don't hold is an error instead of a warning.
    #[arg(long)]
    strict_references: bool,
    /// Image of the proxy.
    #[arg(long, value_name = "IMAGE", env = "TOOLHIVE_RUNNER_IMAGE")]
    runner_image: Option<String>,
    /// How to print: YAML documents, or one JSON list.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// How to print objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// YAML documents.
    #[default]
    Yaml,
    /// A Kubernetes List as JSON.
    Json,
}

/// Renders and prints.
///
/// # Errors
/// When a path can't be read.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let manifests = load(&args.paths)?;
    let mut options = PlanOptions::offline(args.strict_references);
    if let Some(image) = args.runner_image.filter(|image| !image.is_empty()) {
        options.settings.runner_image = image;
    }
    let planned = manifests.plan_all(&options);
    let report = Report::new(&manifests, &planned);
    let mut complaints = report.lines();
    for object in planned.iter().filter(|object| object.planned.plan.is_none()) {
        complaints.push_str(&format!(
            "{}:{}: note: NotRendered: the {} `{}` makes no objects because of what is said above.\n",
            object.file.display(),
            object.line,
            object.kind,
            object.name,
        ));
    }
    complain(&complaints)?;
    let objects: Vec<&Value> = planned
        .iter()
        .filter_map(|object| object.planned.plan.as_ref())
        .flat_map(|plan| &plan.objects)
        .collect();
    match args.output {
        Format::Yaml => print(&to_yaml_documents(objects))?,
        Format::Json => {
            let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
            print(&format!("{}\n", serde_json::to_string_pretty(&list)?))?;
        }
    }
    Ok(report.exit_code())
}
