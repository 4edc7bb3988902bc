//! What is measured about a workload.
