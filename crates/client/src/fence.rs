//! What keeps a leader that lost its lease from writing.
//!
//! Two guards: here, no write is sent once the lease may have run out by our own clock; at the server, each write carries the
//! lease and its holder in the `ferrokube-leader` header and is stored in one transaction with the check that the stored lease still
//! names that holder. The first makes a lost leader quiet, the second makes a paused one harmless.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};

use crate::error::{Error, Result};

/// Header of a leader's writes: `<namespace>/<name>=<holderIdentity>;<leaseTransitions>` of its Lease. The server refuses the write
/// with a conflict if the stored Lease's holder or number of transitions differs, or there is no such Lease.
pub const HEADER: &str = "ferrokube-leader";

/// A lease that writes depend on.
#[derive(Debug)]
pub struct Fence {
    lease: String,
    header: MetadataValue<Ascii>,
    valid_until: Mutex<Instant>,
}

/// What [`HEADER`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Expected `spec.holderIdentity`.
    pub holder: String,
    /// Expected `spec.leaseTransitions`.
    pub transitions: i32,
}

// === impl Fence ===

impl Fence {
    /// `None` if the holder's identity cannot stand in a header.
    pub(crate) fn new(guard: &Guard, valid_until: Instant) -> Option<Self> {
        let header = guard.to_string().parse().ok()?;
        Some(Self { lease: format!("{}/{}", guard.namespace, guard.name), header, valid_until: Mutex::new(valid_until) })
    }

    pub(crate) fn header(&self) -> &MetadataValue<Ascii> {
        &self.header
    }

    /// The lease was renewed.
    pub(crate) fn extend(&self, valid_until: Instant) {
        *self.valid_until.lock() = valid_until;
    }

    /// The lease was lost or given up.
    pub(crate) fn end(&self) {
        *self.valid_until.lock() = Instant::now() - Duration::from_nanos(1);
    }

    pub(crate) fn check(&self) -> Result<()> {
        if Instant::now() <= *self.valid_until.lock() { Ok(()) } else { Err(Error::NotLeader { lease: self.lease.clone() }) }
    }
}

// === impl Guard ===

impl std::fmt::Display for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}={};{}", self.namespace, self.name, self.holder, self.transitions)
    }
}

impl std::str::FromStr for Guard {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (lease, holder) = text.split_once('=').ok_or(())?;
        let (namespace, name) = lease.split_once('/').ok_or(())?;
        let (holder, transitions) = holder.rsplit_once(';').ok_or(())?;
        if namespace.is_empty() || name.is_empty() || holder.is_empty() {
            return Err(());
        }
        let transitions = transitions.parse().map_err(drop)?;
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned(), holder: holder.to_owned(), transitions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_survives_its_header() {
        let guard = Guard { namespace: "kube-system".into(), name: "kcm".into(), holder: "h_1=2;3".into(), transitions: 4 };
        assert_eq!(guard.to_string().parse(), Ok(guard));
        for wrong in ["", "a/b", "a/b=c", "a/b=;1", "/b=c;1", "a/b=c;x"] {
            assert_eq!(wrong.parse::<Guard>(), Err(()), "{wrong}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fence_closes_by_itself() {
        let guard = Guard { namespace: "n".into(), name: "l".into(), holder: "h".into(), transitions: 0 };
        let fence = Fence::new(&guard, Instant::now() + Duration::from_secs(10)).unwrap();
        assert!(fence.check().is_ok());
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(matches!(fence.check(), Err(Error::NotLeader { .. })));
    }
}
