//! The helper against a fake agent.

mod files;
mod harness;
mod health;
mod once;
mod readers;
mod troubles;
