//! Applying what a plan says, only when the cluster differs from it.
