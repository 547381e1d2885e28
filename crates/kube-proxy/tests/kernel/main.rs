//! The rules against a real kernel, in network namespaces of their own. Run as root.

mod adoption;
mod net;
mod traffic;
