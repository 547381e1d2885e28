//! Notices when somebody else changes a table of ours: `nft flush ruleset`, a firewall that is reloaded.
//!
//! The kernel tells every change of every table to whoever listens, with the port of the socket it came from. Ours are passed over.

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket};

use crate::decode::{find, text};
use crate::{Channel, Error, Family};

/// The multicast group of nftables' changes.
const NFNLGRP_NFTABLES: u32 = 7;
/// nfnetlink's number for nftables, the high byte of a message's type.
const SUBSYSTEM: u16 = 10;
const RECEIVE_BYTES: usize = 32 * 1024;

/// Listens for changes that others make.
pub struct Monitor {
    socket: TokioSocket,
    family: Family,
    table: &'static str,
    ours: u32,
}

// === impl Monitor ===

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor")
            .field("family", &self.family)
            .field("table", &self.table)
            .field("ours", &self.ours)
            .finish_non_exhaustive()
    }
}

impl Monitor {
    /// Listens in the calling thread's network namespace for changes of a table that are not made through `channel`.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open(channel: &Channel, family: Family, table: &'static str) -> Result<Self, Error> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER).map_err(Error::Open)?;
        let inner = socket.socket_mut();
        inner.bind_auto().map_err(Error::Open)?;
        inner.add_membership(NFNLGRP_NFTABLES).map_err(Error::Open)?;
        // A large change of ours may overrun the buffer; what others do to our table begins with a message that is heard.
        inner.set_no_enobufs(true).map_err(Error::Open)?;
        Ok(Self { socket, family, table, ours: channel.port()? })
    }

    /// Calls `changed` whenever somebody else has changed the table. Ends only with an error.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn run(self, changed: impl Fn()) -> Result<(), Error> {
        let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer).await.map_err(Error::Receive)?;
            if foreign(&buffer, self.family, self.table, self.ours) {
                tracing::debug!(table = self.table, "somebody else has changed the table");
                changed();
            }
        }
    }
}

/// Whether a message among these tells of a change to the table that did not come from the socket `ours`.
fn foreign(mut bytes: &[u8], family: Family, of: &str, ours: u32) -> bool {
    while let Ok(message) = NetlinkBuffer::new_checked(bytes) {
        let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
        let payload = bytes.get(16..length).unwrap_or_default();
        // Every message about tables, chains, rules, sets and elements begins with the name of the table.
        let table = payload.get(4..).and_then(|attributes| find(attributes, 1)).and_then(text);
        if message.message_type() >> 8 == SUBSYSTEM
            && message.port_number() != ours
            && payload.first() == Some(&family.number())
            && table == Some(of)
        {
            return true;
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Batch;

    #[test]
    fn only_others_changes_of_our_table_count() {
        // A batch looks like what the kernel tells of it, but for the port.
        let mut batch = Batch::new(Family::V4, "ours", 1);
        batch.replace_table();
        let batch = batch.finish();
        assert!(foreign(batch.bytes(), Family::V4, "ours", 4711));
        assert!(!foreign(batch.bytes(), Family::V4, "theirs", 4711));
        assert!(!foreign(batch.bytes(), Family::V4, "ours", 0));
        assert!(!foreign(batch.bytes(), Family::V6, "ours", 4711));
        assert!(!foreign(&[], Family::V4, "ours", 4711));
    }
}
