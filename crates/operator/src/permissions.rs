//! Rights that the operator needs.
