//! Storage version migration.
