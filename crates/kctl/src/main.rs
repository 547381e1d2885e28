//! The kctl binary.

fn main() {}
