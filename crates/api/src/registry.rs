//! The kinds that are served. A registry begins with those of the schema and can change at run time; who asks gets the state at that
//! moment, which stays as it is while it is held.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, LazyLock, PoisonError, RwLock},
};

use crate::{
    KINDS,
    kind::{Kind, KindRef},
};

/// The kinds that are served, changeable at run time. Cheap to share by reference; reads take a lock for a moment only.
#[derive(Debug)]
pub struct Registry(RwLock<Arc<Kinds>>);

static COMPILED: LazyLock<Arc<Kinds>> = LazyLock::new(|| Arc::new(KINDS.iter().map(|kind| KindRef::of(kind)).collect()));

/// The kinds that were served at one moment.
#[derive(Debug, Default)]
pub struct Kinds {
    /// By group, version and plural.
    ordered: BTreeMap<(String, Priority, String, String), KindRef>,
    /// Newest version first.
    by_resource: HashMap<(String, String), Vec<KindRef>>,
    by_api_version: HashMap<(String, String), KindRef>,
    by_type_url: HashMap<String, KindRef>,
}

/// Why no kind was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKind {
    /// The resource that was asked for, as `plural` or `plural.group`.
    pub resource: String,
    /// The version that was asked for; empty for any.
    pub version: String,
    /// The versions in which the resource is served; empty if there is no such resource at all.
    pub served: Vec<String>,
}

impl fmt::Display for UnknownKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, version, served } = self;
        match &served[..] {
            [] => write!(f, "the server does not serve {resource:?}"),
            [one] => write!(f, "the server does not serve {resource:?} in version {version:?}; use {one:?}"),
            [..] => write!(f, "the server does not serve {resource:?} in version {version:?}; use one of {}", served.join(", ")),
        }
    }
}

impl std::error::Error for UnknownKind {}

// === impl Registry ===

impl Registry {
    /// The kinds of the schema.
    pub fn compiled() -> Self {
        Self(RwLock::new(COMPILED.clone()))
    }

    /// The kinds at this moment.
    pub fn kinds(&self) -> Arc<Kinds> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Serves `added` and no longer what `removed` says. A kind with the group, version and plural of an added one is replaced.
    pub fn change(&self, added: impl IntoIterator<Item = KindRef>, removed: impl Fn(&Kind) -> bool) {
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let kept = now.all().filter(|kind| !removed(kind)).cloned();
        *now = Arc::new(kept.chain(added).collect());
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::compiled()
    }
}

// === impl Kinds ===

impl Kinds {
    /// The kinds of the schema.
    pub fn compiled() -> &'static Self {
        &COMPILED
    }

    /// Every kind, ordered by group, version (newest first) and plural.
    pub fn all(&self) -> impl Iterator<Item = &KindRef> {
        self.ordered.values()
    }

    /// The kinds that are resources: all but those that are only the body of a subresource.
    pub fn resources(&self) -> impl Iterator<Item = &KindRef> {
        self.all().filter(|kind| !kind.plural.is_empty())
    }

    /// The kind served as `plural` of `group`; in its newest version if `version` is empty.
    ///
    /// # Errors
    /// When there is no such resource, or not in this version.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Result<&KindRef, UnknownKind> {
        let versions = self.versions(group, plural);
        let found = versions.iter().find(|kind| version.is_empty() || kind.version == version);
        found.ok_or_else(|| UnknownKind {
            resource: if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") },
            version: version.to_owned(),
            served: versions.iter().map(|kind| kind.version.to_string()).collect(),
        })
    }

    /// The kinds served as `plural` of `group`, newest version first.
    pub fn versions(&self, group: &str, plural: &str) -> &[KindRef] {
        self.by_resource.get(&(group.to_owned(), plural.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// The kind with this `apiVersion` and `kind`.
    pub fn by_api_version(&self, api_version: &str, kind: &str) -> Option<&KindRef> {
        self.by_api_version.get(&(api_version.to_owned(), kind.to_owned()))
    }

    /// The kind of the schema whose objects carry this `type_url`. Kinds made at run time share one and are not found by it.
    pub fn by_type_url(&self, type_url: &str) -> Option<&KindRef> {
        self.by_type_url.get(type_url)
    }
}

impl FromIterator<KindRef> for Kinds {
    /// Of several kinds with the same group, version and plural the last one counts.
    fn from_iter<I: IntoIterator<Item = KindRef>>(kinds: I) -> Self {
        let mut all = Self::default();
        for kind in kinds {
            let order = (kind.group.to_string(), Priority::of(&kind.version), kind.plural.to_string(), kind.kind.to_string());
            all.ordered.insert(order, kind);
        }
        for kind in all.ordered.values() {
            if !kind.plural.is_empty() {
                all.by_resource.entry((kind.group.to_string(), kind.plural.to_string())).or_default().push(kind.clone());
            }
            all.by_api_version.insert((kind.api_version.to_string(), kind.kind.to_string()), kind.clone());
            if kind.message().is_some() {
                all.by_type_url.insert(kind.type_url.to_string(), kind.clone());
            }
        }
        all
    }
}

// === versions ===

/// The order of versions: stable ones, then betas, then alphas, each the highest number first; then everything else by its name.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority {
    stage: u8,
    major: std::cmp::Reverse<u32>,
    minor: std::cmp::Reverse<u32>,
    name: String,
}

impl Priority {
    /// The place of a version such as `v1`, `v2beta3` or `v1alpha1`; the least comes first.
    pub fn of(version: &str) -> Self {
        let (stage, major, minor) = Self::parse(version).unwrap_or((3, 0, 0));
        Self { stage, major: std::cmp::Reverse(major), minor: std::cmp::Reverse(minor), name: version.to_owned() }
    }

    fn parse(version: &str) -> Option<(u8, u32, u32)> {
        let rest = version.strip_prefix('v')?;
        let number = |text: &str| text.parse::<u32>().ok().filter(|_| text.starts_with(|c: char| ('1'..='9').contains(&c)));
        for (stage, word) in [(1, "beta"), (2, "alpha")] {
            if let Some((major, minor)) = rest.split_once(word) {
                return Some((stage, number(major)?, number(minor)?));
            }
        }
        Some((0, number(rest)?, 0))
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::{Resource, core::v1::Pod, testing::custom_kind};

    #[test]
    fn a_kind_is_found_by_group_version_and_resource() {
        let registry = Registry::compiled();
        let kinds = registry.kinds();
        assert_eq!(*kinds.resource("", "", "pods").unwrap(), Pod::KIND);
        assert_eq!(*kinds.resource("", "v1", "pods").unwrap(), Pod::KIND);
        assert_eq!(*kinds.by_api_version("v1", "Pod").unwrap(), Pod::KIND);
        assert_eq!(*kinds.by_type_url(&Pod::KIND.type_url).unwrap(), Pod::KIND);
        let error = kinds.resource("", "v2", "pods").unwrap_err().to_string();
        assert_eq!(error, "the server does not serve \"pods\" in version \"v2\"; use \"v1\"");
        let error = kinds.resource("apps", "v1", "pods").unwrap_err();
        assert_eq!((error.to_string().as_str(), error.served.len()), ("the server does not serve \"pods.apps\"", 0));
        assert_eq!(kinds.all().count(), KINDS.len());
        assert!(kinds.resource("", "", "").is_err(), "bodies of subresources are no resources");
    }

    #[test]
    fn kinds_come_and_go_while_a_snapshot_stays() {
        let registry = Registry::compiled();
        let before = registry.kinds();
        registry.change(["v1beta1", "v1", "v2alpha1"].map(|v| custom_kind("stable.example.com", v, "Widget")), |_| false);
        let kinds = registry.kinds();
        let versions = |kinds: &Kinds| {
            kinds.versions("stable.example.com", "widgets").iter().map(|k| k.version.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(versions(&kinds), ["v1", "v1beta1", "v2alpha1"]);
        assert_eq!(kinds.resource("stable.example.com", "", "widgets").unwrap().version, "v1");
        assert!(kinds.by_type_url(crate::unstructured::TYPE_URL).is_none());

        let again = custom_kind("stable.example.com", "v1", "Widget");
        registry.change([again.clone()], |kind| kind.version == Cow::Borrowed("v2alpha1"));
        assert_eq!(*registry.kinds().resource("stable.example.com", "v1", "widgets").unwrap(), again);
        assert_eq!(versions(&registry.kinds()), ["v1", "v1beta1"]);
        assert!(versions(&before).is_empty());
    }

    #[test]
    fn versions_are_ordered_by_how_stable_they_are() {
        let mut versions =
            ["foo10", "v1alpha1", "v10", "v2", "v11beta2", "v3beta1", "v12alpha1", "v1", "foo1", "v11alpha2", "v10beta3"];
        versions.sort_by_key(|version| Priority::of(version));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v11beta2", "v10beta3", "v3beta1", "v12alpha1", "v11alpha2", "v1alpha1", "foo1", "foo10"]
        );
    }
}
