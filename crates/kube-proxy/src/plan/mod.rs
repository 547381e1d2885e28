//! What the table should hold, computed purely from services, endpoints and the node.
//!
//! [`base`] is the frame that is always there; [`service`] is what one Service adds. Neither looks at what is there already, so
//! both can run again at any time, and a Service's part depends on nothing but that Service and the node.

mod base;
mod endpoints;
mod service;

pub use self::base::base;
pub use self::endpoints::{Choice, choose};
pub use self::service::service;
