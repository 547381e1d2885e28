//! The finalizers that the system itself sets and removes.

/// The garbage collector deletes the dependents first, then the object.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The garbage collector takes the object out of its dependents' owner references, then lets it go.
pub const ORPHAN: &str = "orphan";
/// In a namespace's `spec.finalizers`: the namespace controller empties it.
pub const KUBERNETES: &str = "kubernetes";
