//! What controllers and proxies tell each other in EndpointSlices.

/// Label that names the Service of a slice.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Annotation that says when that happened of which a slice tells now, such as a pod that became ready (RFC 3339). Proxies measure from it
/// how long rules take.
pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
