//! What is special about a kind. The pipeline does what all kinds have in common and asks the kind's strategy for the rest; most kinds
//! have none.
//!
//! A strategy is pure: no I/O, no other objects. What needs either is an admission plugin.

use std::marker::PhantomData;

use api::{Kind, Object, Resource, meta::v1::DeleteOptions, rules::FieldErrors};

/// What becomes of an object's dependents when the request does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultPropagation {
    /// The garbage collector deletes them afterwards.
    Background,
    /// They stay.
    Orphan,
}

/// The behaviour of one kind. Every method has a default that does nothing special.
pub trait Strategy: Send + Sync + 'static {
    /// The kind.
    type Kind: Resource;

    /// Defaults that depend on several fields. Runs after the schema's defaults, on create, update and patch.
    fn set_defaults(&self, _object: &mut Self::Kind) {}

    /// Brings a new object into its first state. Its status has been cleared; UID, times and name are set.
    fn prepare_for_create(&self, _object: &mut Self::Kind) {}

    /// True if a new object keeps the status that it was sent with.
    fn keeps_status_on_create(&self) -> bool {
        false
    }

    /// Keeps what an update of the object itself may not touch. The status is already the old one.
    fn prepare_for_update(&self, _new: &mut Self::Kind, _old: &Self::Kind) {}

    /// Keeps what an update of this subresource may not touch. `new` is the old object with the new status (`status`) or the object as
    /// sent (any other subresource).
    fn prepare_for_subresource_update(&self, _subresource: &str, _new: &mut Self::Kind, _old: &Self::Kind) {}

    /// Rules that look at several fields. The schema's rules have been checked.
    fn validate(&self, _object: &Self::Kind, _errors: &mut FieldErrors) {}

    /// Rules for new objects only. `validate` runs as well.
    fn validate_create(&self, _object: &Self::Kind, _errors: &mut FieldErrors) {}

    /// Rules that look at the old object. `validate` runs as well, except for subresources.
    fn validate_update(&self, _subresource: &str, _new: &Self::Kind, _old: &Self::Kind, _errors: &mut FieldErrors) {}

    /// Seconds between the request to delete and the deletion; `None` if the kind is deleted at once.
    fn grace_period(&self, _object: &Self::Kind, _options: &DeleteOptions) -> Option<i64> {
        None
    }

    /// Marks an object whose deletion has begun but must wait; `metadata` is already set.
    fn begin_deletion(&self, _object: &mut Self::Kind) {}

    /// True if something other than `metadata.finalizers` holds the object back.
    fn is_held(&self, _object: &Self::Kind) -> bool {
        false
    }

    /// What becomes of dependents when the request does not say.
    fn default_propagation(&self) -> DefaultPropagation {
        DefaultPropagation::Background
    }

    /// Whether an update may leave out the resource version that it is based on.
    fn allows_unconditional_update(&self) -> bool {
        true
    }

    /// Whether an update creates the object if there is none.
    fn creates_on_update(&self) -> bool {
        false
    }

    /// Remarks for whoever sends the object: it is taken, but not what they may think.
    fn warnings(&self, _object: &Self::Kind) -> Vec<String> {
        Vec::new()
    }
}

/// A strategy with its kind erased. Objects of other kinds are left alone.
pub trait AnyStrategy: Send + Sync {
    /// See [`Strategy::set_defaults`].
    fn set_defaults(&self, object: &mut dyn Object);
    /// See [`Strategy::prepare_for_create`].
    fn prepare_for_create(&self, object: &mut dyn Object);
    /// See [`Strategy::keeps_status_on_create`].
    fn keeps_status_on_create(&self) -> bool;
    /// See [`Strategy::prepare_for_update`] and [`Strategy::prepare_for_subresource_update`].
    fn prepare_for_update(&self, subresource: &str, new: &mut dyn Object, old: &dyn Object);
    /// See [`Strategy::validate`].
    fn validate(&self, object: &dyn Object, errors: &mut FieldErrors);
    /// See [`Strategy::validate_create`].
    fn validate_create(&self, object: &dyn Object, errors: &mut FieldErrors);
    /// See [`Strategy::validate_update`].
    fn validate_update(&self, subresource: &str, new: &dyn Object, old: &dyn Object, errors: &mut FieldErrors);
    /// See [`Strategy::grace_period`].
    fn grace_period(&self, object: &dyn Object, options: &DeleteOptions) -> Option<i64>;
    /// See [`Strategy::begin_deletion`].
    fn begin_deletion(&self, object: &mut dyn Object);
    /// See [`Strategy::is_held`].
    fn is_held(&self, object: &dyn Object) -> bool;
    /// See [`Strategy::default_propagation`].
    fn default_propagation(&self) -> DefaultPropagation;
    /// See [`Strategy::allows_unconditional_update`].
    fn allows_unconditional_update(&self) -> bool;
    /// See [`Strategy::creates_on_update`].
    fn creates_on_update(&self) -> bool;
    /// See [`Strategy::warnings`].
    fn warnings(&self, object: &dyn Object) -> Vec<String>;
}

impl<S: Strategy> AnyStrategy for S {
    fn set_defaults(&self, object: &mut dyn Object) {
        if let Some(object) = object.downcast_mut() {
            Strategy::set_defaults(self, object);
        }
    }

    fn prepare_for_create(&self, object: &mut dyn Object) {
        if let Some(object) = object.downcast_mut() {
            Strategy::prepare_for_create(self, object);
        }
    }

    fn keeps_status_on_create(&self) -> bool {
        Strategy::keeps_status_on_create(self)
    }

    fn prepare_for_update(&self, subresource: &str, new: &mut dyn Object, old: &dyn Object) {
        if let (Some(new), Some(old)) = (new.downcast_mut(), old.downcast_ref()) {
            match subresource {
                "" => Strategy::prepare_for_update(self, new, old),
                _ => Strategy::prepare_for_subresource_update(self, subresource, new, old),
            }
        }
    }

    fn validate(&self, object: &dyn Object, errors: &mut FieldErrors) {
        if let Some(object) = object.downcast_ref() {
            Strategy::validate(self, object, errors);
        }
    }

    fn validate_create(&self, object: &dyn Object, errors: &mut FieldErrors) {
        if let Some(object) = object.downcast_ref() {
            Strategy::validate_create(self, object, errors);
        }
    }

    fn validate_update(&self, subresource: &str, new: &dyn Object, old: &dyn Object, errors: &mut FieldErrors) {
        if let (Some(new), Some(old)) = (new.downcast_ref(), old.downcast_ref()) {
            Strategy::validate_update(self, subresource, new, old, errors);
        }
    }

    fn grace_period(&self, object: &dyn Object, options: &DeleteOptions) -> Option<i64> {
        Strategy::grace_period(self, object.downcast_ref()?, options)
    }

    fn begin_deletion(&self, object: &mut dyn Object) {
        if let Some(object) = object.downcast_mut() {
            Strategy::begin_deletion(self, object);
        }
    }

    fn is_held(&self, object: &dyn Object) -> bool {
        object.downcast_ref().is_some_and(|object| Strategy::is_held(self, object))
    }

    fn default_propagation(&self) -> DefaultPropagation {
        Strategy::default_propagation(self)
    }

    fn allows_unconditional_update(&self) -> bool {
        Strategy::allows_unconditional_update(self)
    }

    fn creates_on_update(&self) -> bool {
        Strategy::creates_on_update(self)
    }

    fn warnings(&self, object: &dyn Object) -> Vec<String> {
        object.downcast_ref().map(|object| Strategy::warnings(self, object)).unwrap_or_default()
    }
}

/// The strategy of kinds that have none.
struct Plain<K>(PhantomData<fn() -> K>);

impl<K: Resource> Strategy for Plain<K> {
    type Kind = K;
}

/// The strategies by kind.
pub struct Strategies {
    special: Vec<(&'static Kind, Box<dyn AnyStrategy>)>,
    plain: Box<dyn AnyStrategy>,
}

impl Default for Strategies {
    fn default() -> Self {
        // Any kind will do: a plain strategy does nothing to objects of whichever kind.
        Self { special: Vec::new(), plain: Box::new(Plain::<api::core::v1::ConfigMap>(PhantomData)) }
    }
}

impl Strategies {
    /// Adds the strategy of a kind.
    #[must_use]
    pub fn with<S: Strategy>(mut self, strategy: S) -> Self {
        self.special.push((S::Kind::KIND, Box::new(strategy)));
        self
    }

    /// The strategy of a kind.
    pub fn of(&self, kind: &Kind) -> &dyn AnyStrategy {
        let special = self.special.iter().find(|(k, _)| *k == kind);
        special.map_or(&*self.plain, |(_, strategy)| &**strategy)
    }
}
