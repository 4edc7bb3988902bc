//! YAML and JSON text to values and back, as Kubernetes tools read it, with the line of every node.

mod read;
mod write;

pub use read::{Document, Lines, MAX_TEXT, YamlError, documents, single};
pub use write::{to_yaml, to_yaml_documents};
