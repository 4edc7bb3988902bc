//! End-to-end tests of the `skep` binary. There is nothing in here: see `tests/it`.
