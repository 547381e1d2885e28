//! A connection's place in the count of whoever holds it.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use super::{
    activity::Activity,
    lobby::{Holder, Lobby},
};

/// A connection's place in the count of whoever holds it, given back when the connection ends: an extension of every request that comes
/// over it.
#[derive(Debug)]
pub struct Seat {
    lobby: Arc<Mutex<Lobby<AbortHandle>>>,
    holder: Mutex<Holder>,
    activity: Arc<Activity>,
}

// === impl Seat ===

impl Seat {
    /// A place for a connection, if its holder may have one more.
    pub(super) fn take(lobby: Arc<Mutex<Lobby<AbortHandle>>>, holder: Holder) -> Option<Arc<Self>> {
        let activity = Arc::new(Activity::default());
        let fits = lobby.lock().connect(holder.clone(), activity.clone());
        fits.then(|| Arc::new(Self { lobby, holder: Mutex::new(holder), activity }))
    }

    /// Somebody has shown who it is over this connection: if nobody had before, the connection counts for it from now on and no longer for its
    /// address. False if so many others do that there is no place for this one.
    pub fn claim(&self, name: &str) -> bool {
        let mut holder = self.holder.lock();
        if matches!(*holder, Holder::Known(_)) {
            return true;
        }
        let (known, mut lobby) = (Holder::Known(name.into()), self.lobby.lock());
        if !lobby.connect(known.clone(), self.activity.clone()) {
            return false;
        }
        lobby.disconnect(&holder, &self.activity);
        *holder = known;
        true
    }

    /// Asks whoever serves the connection to end it at once.
    pub fn close(&self) {
        self.activity.close();
    }

    /// What the connection is busy with, as whoever serves it tells.
    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.lobby.lock().disconnect(&self.holder.lock(), &self.activity);
    }
}
