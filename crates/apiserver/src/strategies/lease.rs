//! Leases.

use api::{coordination::v1::Lease, rules::FieldErrors};

use super::SPEC;
use crate::strategy::Strategy;

/// See the module.
pub struct LeaseStrategy;

impl Strategy for LeaseStrategy {
    type Kind = Lease;

    fn creates_on_update(&self) -> bool {
        true
    }

    fn validate(&self, object: &Lease, errors: &mut FieldErrors) {
        let spec = object.spec();
        let strategy = spec.strategy.as_deref().unwrap_or_default();
        if spec.preferred_holder.as_deref().is_some_and(|holder| !holder.is_empty()) && strategy.is_empty() {
            errors.forbidden(&SPEC.field("preferredHolder"), "may only be specified if `strategy` is defined");
        }
    }

    /// Who holds it decides by what it was: a blind write would take it from whoever took it meanwhile.
    fn allows_unconditional_update(&self) -> bool {
        false
    }
}
