//! The rules against a real kernel, in network namespaces of their own. Run as root.

mod adoption;
mod daemon;
mod net;
mod traffic;
