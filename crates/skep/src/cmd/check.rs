//! `skep check`: what is wrong with manifests, with no cluster.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::cmd::report::{Output, Report, print};
use crate::manifest::{PlanOptions, load};

/// Says what is wrong with manifests.
///
/// Prints a line for each finding: file, line, severity, reason, field and a sentence. Exits with 3 when
/// there are errors, with 0 when there are none or only warnings.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// File or folder with manifests, or `-` for standard input. May be given more than once.
    #[arg(short = 'f', long = "filename", value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// A reference to something that the files don't hold is an error instead of a warning.
    #[arg(long)]
    strict_references: bool,
    /// Judge as `skep up` does: loopback addresses are allowed, and the files are all there is.
    #[arg(long)]
    local: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Checks and prints.
///
/// # Errors
/// When a path can't be read.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let manifests = load(&args.paths)?;
    let options =
        if args.local { PlanOptions::local(false) } else { PlanOptions::offline(args.strict_references) };
    let planned = manifests.plan_all(&options);
    let report = Report::new(&manifests, &planned);
    match args.output {
        Output::Text => print(&format!("{}{}\n", report.lines(), report.summary()))?,
        Output::Json => print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?,
    }
    Ok(report.exit_code())
}
