//! What a request is about beside its object.

use api::{
    Bytes,
    ferrokube::v1::{ResourceName, WatchRequest, patch_request},
};
use serde_json::Value;

/// Which objects to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ListParams {
    /// Label selector in text form.
    pub label_selector: String,
    /// Field selector in text form.
    pub field_selector: String,
    /// Most objects to return; 0 for all.
    pub limit: i64,
    /// Where an earlier list that hit its limit stopped.
    pub continue_token: String,
    /// `""` for the newest state, `"0"` for whatever the server has at hand, or a revision the answer must not be older than.
    pub resource_version: String,
}

/// Which changes to watch.
#[derive(Clone, Debug, Default)]
pub struct WatchParams {
    /// Label selector in text form.
    pub label_selector: String,
    /// Field selector in text form.
    pub field_selector: String,
    /// Changes after this revision are sent; empty for what exists now, as if it were added, and then its changes.
    pub resource_version: String,
    /// First send every existing object, then a bookmark that says so.
    pub initial_events: bool,
    /// End the watch after this many seconds; 0 for the server's choice.
    pub timeout_seconds: i64,
}

/// A change to an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    /// RFC 6902, a list of operations.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Lists of objects are merged by their merge key.
    Strategic(Value),
}

// === impl ListParams ===

impl ListParams {
    /// Restricts to objects whose labels match.
    #[must_use]
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.label_selector = selector.into();
        self
    }

    /// Restricts to objects whose fields match.
    #[must_use]
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.field_selector = selector.into();
        self
    }

    /// Restricts to so many objects.
    #[must_use]
    pub fn limit(mut self, limit: i64) -> Self {
        self.limit = limit;
        self
    }
}

// === impl WatchParams ===

impl WatchParams {
    /// Everything that exists, then its changes.
    pub fn from_now() -> Self {
        Self { initial_events: true, ..Self::default() }
    }

    /// Changes after a revision.
    pub fn after(resource_version: impl Into<String>) -> Self {
        Self { resource_version: resource_version.into(), ..Self::default() }
    }

    /// Restricts to objects whose labels match.
    #[must_use]
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.label_selector = selector.into();
        self
    }

    /// Restricts to objects whose fields match.
    #[must_use]
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.field_selector = selector.into();
        self
    }

    pub(super) fn request(&self, resource: Option<ResourceName>, namespace: &str, metadata_only: bool) -> WatchRequest {
        WatchRequest {
            resource,
            namespace: namespace.to_owned(),
            label_selector: self.label_selector.clone(),
            field_selector: self.field_selector.clone(),
            resource_version: self.resource_version.clone(),
            send_initial_events: self.initial_events,
            allow_bookmarks: true,
            metadata_only,
            timeout_seconds: self.timeout_seconds,
            as_json: false,
        }
    }
}

// === impl Patch ===

impl Patch {
    pub(super) fn wire_type(&self) -> patch_request::Type {
        match self {
            Self::Json(_) => patch_request::Type::Json,
            Self::Merge(_) => patch_request::Type::Merge,
            Self::Strategic(_) => patch_request::Type::Strategic,
        }
    }

    pub(super) fn encode(&self) -> Bytes {
        let (Self::Json(value) | Self::Merge(value) | Self::Strategic(value)) = self;
        value.to_string().into()
    }
}

/// Options for deleting.
pub mod delete {
    use api::meta::v1::{DeleteOptions, Preconditions};

    /// Only the object with this UID.
    pub fn uid(uid: &str) -> DeleteOptions {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), ..Preconditions::default() };
        DeleteOptions { preconditions: Some(preconditions), ..DeleteOptions::default() }
    }

    /// At once, without a grace period.
    pub fn now() -> DeleteOptions {
        DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() }
    }

    /// What becomes of dependents: `Background`, `Foreground` or `Orphan`.
    pub fn propagation(policy: &str) -> DeleteOptions {
        DeleteOptions { propagation_policy: Some(policy.to_owned()), ..DeleteOptions::default() }
    }
}
