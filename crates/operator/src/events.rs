//! Events: what happened to an object, once.
