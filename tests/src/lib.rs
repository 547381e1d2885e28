//! The cluster on one machine: hosts, daemons, faults. Used by `scripts/up` and the end-to-end suites.
