//! Memory that the allocator keeps.

/// Gives memory that is free, but kept by the allocator for later, back to the system. Takes milliseconds: for after a flood, not for
/// each request.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes the allocator's own locks and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}
