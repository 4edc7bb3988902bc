//! Status of each kind, from what is planned and what is observed.
