//! The `scale` subresource: how many replicas an object of whatever kind is to have, and has.

use api::{Object, StatusError, autoscaling::v1::Scale, core::v1::ReplicationController};

use super::replication_controller;
use crate::decode::expect;

/// The Scale of an object; `None` for kinds that have none.
pub fn read(object: &dyn Object) -> Option<Box<dyn Object>> {
    object
        .downcast_ref::<ReplicationController>()
        .map(|object| Box::new(replication_controller::scale(object)) as Box<dyn Object>)
}

/// Makes an object as large as a Scale says.
///
/// # Errors
/// When the body is no Scale, or the object cannot be scaled.
pub fn write(body: &dyn Object, object: &mut dyn Object) -> Result<(), StatusError> {
    let scale = expect::<Scale>(body)?;
    match object.downcast_mut::<ReplicationController>() {
        Some(object) => replication_controller::set_scale(object, scale),
        None => return Err(StatusError::internal("an object of a kind that has no scale was to be scaled")),
    }
    Ok(())
}
