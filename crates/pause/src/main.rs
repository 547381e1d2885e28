//! The pause binary.

fn main() {}
