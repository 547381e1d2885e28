//! The schema as Rust: generated types, JSON and YAML, quantities, selectors, patches, validation and defaults.
