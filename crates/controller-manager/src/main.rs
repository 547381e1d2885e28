//! The controller-manager binary.

fn main() {}
