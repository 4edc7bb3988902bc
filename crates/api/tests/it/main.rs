//! The definitions of the custom resources beside those of ToolHive.

#[cfg(test)]
mod compatibility;
