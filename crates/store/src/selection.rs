//! Which objects of a kind a list or watch is about.

use std::fmt;
use std::sync::Arc;

use crate::entry::Entry;
use crate::layout::KindLayout;

/// A predicate over entries, given by the caller (label and field selectors).
pub type Filter = Arc<dyn Fn(&Entry) -> bool + Send + Sync>;

/// Which objects a list or watch is about: those in scope, with the index value, that pass the filter.
#[derive(Clone, Default)]
pub struct Selection {
    /// Where they lie.
    pub scope: Scope,
    /// One equality that an index answers; lists touch and watches wake only for objects that satisfy it.
    pub index: Option<IndexKey>,
    /// What else they must satisfy.
    pub filter: Option<Filter>,
}

/// Where selected objects lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Everywhere.
    #[default]
    All,
    /// In one namespace.
    Namespace(String),
    /// The one object of that name; the namespace is ignored for kinds that have none.
    Object {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// An equality that an index answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexKey {
    /// The selectable field at this place of [`KindLayout::fields`] has this value. Right for every field, fast for
    /// those with an index.
    Field {
        /// Place in [`KindLayout::fields`].
        field: usize,
        /// The value; empty also selects objects without the field.
        value: String,
    },
    /// One of the object's owners has this UID.
    Owner(String),
}

// === impl Selection ===

impl Selection {
    /// Every object.
    pub fn all() -> Self {
        Self::default()
    }

    /// Every object in a namespace.
    pub fn namespace(namespace: impl Into<String>) -> Self {
        Self { scope: Scope::Namespace(namespace.into()), ..Self::default() }
    }

    /// One object.
    pub fn object(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { scope: Scope::Object { namespace: namespace.into(), name: name.into() }, ..Self::default() }
    }

    /// Narrowed to objects with a value in an index.
    pub fn with_index(mut self, index: IndexKey) -> Self {
        self.index = Some(index);
        self
    }

    /// Narrowed to objects that satisfy a predicate.
    pub fn with_filter(mut self, filter: impl Fn(&Entry) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Some(Arc::new(filter));
        self
    }

    /// Whether an entry is selected.
    pub fn matches(&self, layout: &KindLayout, entry: &Entry) -> bool {
        self.scope.contains(layout, entry)
            && self.index.as_ref().is_none_or(|index| index.matches(layout, entry))
            && self.filter.as_ref().is_none_or(|filter| filter(entry))
    }
}

impl fmt::Debug for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selection")
            .field("scope", &self.scope)
            .field("index", &self.index)
            .field("filter", &self.filter.is_some())
            .finish()
    }
}

// === impl Scope ===

impl Scope {
    fn contains(&self, layout: &KindLayout, entry: &Entry) -> bool {
        match self {
            Scope::All => true,
            Scope::Namespace(namespace) => entry.namespace() == namespace,
            Scope::Object { namespace, name } => entry.name() == name && (!layout.namespaced || entry.namespace() == namespace),
        }
    }

    /// The first key in scope and what every key in scope begins with.
    pub(crate) fn prefix(&self, layout: &KindLayout) -> String {
        match self {
            Scope::Namespace(namespace) if layout.namespaced => layout.key(namespace, ""),
            Scope::Object { namespace, name } => layout.key(namespace, name),
            _ => layout.prefix.to_string(),
        }
    }
}

// === impl IndexKey ===

impl IndexKey {
    fn matches(&self, layout: &KindLayout, entry: &Entry) -> bool {
        match self {
            IndexKey::Field { field, value } => {
                layout.fields.get(*field).is_some_and(|field| entry.field(field) == value.as_str())
            }
            IndexKey::Owner(uid) => entry.owners().any(|owner| owner == uid),
        }
    }
}
