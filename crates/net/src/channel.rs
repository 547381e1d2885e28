//! One netlink socket: transactions, dumps and single requests.
//!
//! Calls block, but never wait for anybody: nfnetlink does all its work inside `sendmsg`, so answers are queued when it returns.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::nftables::{ChainAttribute, NfTablesMessage, RuleAttribute, SetAttribute, SetElementList};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};

use crate::{Batch, Family, Transaction};

/// Netlink's messages in a dump are at most this long together.
const RECEIVE_BYTES: usize = 64 * 1024;
/// The kernel keeps some of the send buffer for itself.
const SEND_SLACK: usize = 4096;
/// Bytes of a netlink message's header.
const NETLINK_HEADER: usize = 16;
/// Bytes of the header before a netfilter message's attributes.
const NETFILTER_HEADER: usize = 4;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// How often a dump that was overtaken by a change is begun again.
const DUMP_ATTEMPTS: usize = 10;

/// Why the kernel did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket could not be made.
    #[error("open a netlink socket")]
    Open(#[source] io::Error),
    /// The socket's buffer could not be made large enough for the transaction.
    #[error("reserve {bytes} bytes to send a transaction")]
    Reserve {
        /// The size of the transaction.
        bytes: usize,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A message could not be sent.
    #[error("send {bytes} bytes over netlink")]
    Send {
        /// The size of the message.
        bytes: usize,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// An answer could not be received.
    #[error("receive over netlink")]
    Receive(#[source] io::Error),
    /// The kernel refused a step; nothing of the transaction was done.
    #[error("{step}")]
    Refused {
        /// What was asked, such as `new rule in chain all/default/web/tcp/80`.
        step: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The kernel neither confirmed nor refused.
    #[error("no answer over netlink to {0}")]
    Silent(&'static str),
    /// An answer made no sense.
    #[error("understand the kernel's answer: {0}")]
    Decode(String),
    /// A dump was overtaken by changes again and again.
    #[error("list the kernel's table: it changed {DUMP_ATTEMPTS} times while it was listed")]
    Unsteady,
}

/// An open netlink socket to netfilter.
#[derive(Debug)]
pub struct Channel {
    socket: Socket,
    sequence: u32,
    send_bytes: usize,
}

impl Error {
    /// Whether the kernel said that there is no such thing.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.raw_os_error() == Some(libc::ENOENT))
    }
}

impl Channel {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn open() -> Result<Self, Error> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(Error::Open)?;
        socket.bind_auto().map_err(Error::Open)?;
        // Answers need not repeat what was asked.
        socket.set_cap_ack(true).map_err(Error::Open)?;
        Ok(Self { socket, sequence: 1, send_bytes: 0 })
    }

    /// The socket's own address on netlink, which the kernel names as the source of our changes.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn port(&self) -> Result<u32, Error> {
        let mut address = SocketAddr::new(0, 0);
        self.socket.get_address(&mut address).map_err(Error::Open)?;
        Ok(address.port_number())
    }

    /// Begins a batch of changes to a table.
    pub fn batch(&self, family: Family, table: &'static str) -> Batch {
        Batch::new(family, table, self.sequence)
    }

    /// Carries a transaction out, wholly or not at all.
    ///
    /// # Errors
    /// What the kernel refused, by the name of the object, or why it could not be asked.
    pub fn transact(&mut self, batch: &Transaction) -> Result<(), Error> {
        self.sequence = batch.sequence().end;
        self.reserve(batch.bytes().len())?;
        self.send(batch.bytes())?;
        let mut done = false;
        let mut refused = None;
        let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // More failures than fit: the first ones are there already.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) && refused.is_some() => {
                    continue;
                }
                Err(error) => return Err(Error::Receive(error)),
            }
            each_answer(&buffer, |answer| {
                if batch.sequence().contains(&answer.sequence) {
                    match answer.kind {
                        Kind::Ack => done |= answer.sequence == batch.acknowledged(),
                        Kind::Failed(error) if refused.is_none() => refused = Some((answer.sequence, error)),
                        _ => {}
                    }
                }
                Ok(())
            })?;
        }
        match refused {
            Some((sequence, source)) => Err(Error::Refused { step: describe(batch.bytes(), sequence), source }),
            None if done => Ok(()),
            None => Err(Error::Silent("a transaction")),
        }
    }

    /// Lists what a request selects, once more from the start whenever it changed meanwhile. `parse` gets the attributes of each
    /// message as bytes and keeps what it wants: the crate's types would format every attribute for an error that does not happen.
    ///
    /// # Errors
    /// What `parse` says, why the kernel refused, or that the list never held still.
    pub fn dump<T>(
        &mut self,
        request: &NetfilterMessage,
        parse: impl Fn(&[u8]) -> Result<Option<T>, Error>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(listed) = self.dump_once(request, &parse)? {
                return Ok(listed);
            }
        }
        Err(Error::Unsteady)
    }

    /// Sends one request and waits for its answer.
    ///
    /// # Errors
    /// Why the kernel refused, or could not be asked.
    pub fn request(&mut self, request: &NetfilterMessage) -> Result<(), Error> {
        let sequence = self.send_one(request, NLM_F_REQUEST | NLM_F_ACK)?;
        let mut buffer = Vec::with_capacity(4096);
        let mut answer = None;
        while answer.is_none() {
            self.receive(&mut buffer)?;
            each_answer(&buffer, |received| {
                if received.sequence == sequence {
                    answer = Some(match received.kind {
                        Kind::Failed(error) => Err(error),
                        _ => Ok(()),
                    });
                }
                Ok(())
            })?;
        }
        answer.unwrap_or(Ok(())).map_err(|source| Error::Refused { step: what(request), source })
    }

    fn dump_once<T>(
        &mut self,
        request: &NetfilterMessage,
        parse: &impl Fn(&[u8]) -> Result<Option<T>, Error>,
    ) -> Result<Option<Vec<T>>, Error> {
        let sequence = self.send_one(request, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut listed = Vec::new();
        let (mut done, mut steady) = (false, true);
        let mut failure = None;
        let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
        while !done {
            self.receive(&mut buffer)?;
            each_answer(&buffer, |answer| {
                if answer.sequence != sequence {
                    return Ok(());
                }
                steady &= answer.flags & NLM_F_DUMP_INTR == 0;
                match answer.kind {
                    Kind::Data(attributes) => listed.extend(parse(attributes)?),
                    Kind::Done | Kind::Ack => done = true,
                    Kind::Failed(error) => {
                        failure = Some(error);
                        done = true;
                    }
                }
                Ok(())
            })?;
        }
        match failure {
            Some(source) if matches!(source.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => Ok(None),
            Some(source) => Err(Error::Refused { step: what(request), source }),
            None => Ok(steady.then_some(listed)),
        }
    }

    fn send_one(&mut self, request: &NetfilterMessage, flags: u16) -> Result<u32, Error> {
        let sequence = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request.clone()));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.send(&bytes)?;
        Ok(sequence)
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        self.socket
            .send_to(bytes, &SocketAddr::new(0, 0), 0)
            .map(drop)
            .map_err(|source| Error::Send { bytes: bytes.len(), source })
    }

    fn receive(&self, buffer: &mut Vec<u8>) -> Result<(), Error> {
        loop {
            buffer.clear();
            match self.socket.recv(buffer, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Receive(error)),
            }
        }
    }

    /// Makes the socket's send buffer hold a message of `bytes`, past the system's limit if need be (CAP_NET_ADMIN may).
    fn reserve(&mut self, bytes: usize) -> Result<(), Error> {
        let wanted = bytes + SEND_SLACK;
        if wanted <= self.send_bytes {
            return Ok(());
        }
        // SAFETY: the socket is open as long as `self` is borrowed.
        let fd = unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) };
        setsockopt(&fd, sockopt::SndBufForce, &wanted)
            .map_err(|errno| Error::Reserve { bytes, source: io::Error::from(errno) })?;
        self.send_bytes = wanted;
        Ok(())
    }
}

/// A message from the kernel.
struct Answer<'a> {
    sequence: u32,
    flags: u16,
    kind: Kind<'a>,
}

enum Kind<'a> {
    /// The request was carried out.
    Ack,
    /// The request was refused.
    Failed(io::Error),
    /// The dump is complete.
    Done,
    /// The attributes of one listed object.
    Data(&'a [u8]),
}

/// Calls `each` for every message in what one `recv` returned.
fn each_answer<'a>(mut bytes: &'a [u8], mut each: impl FnMut(Answer<'a>) -> Result<(), Error>) -> Result<(), Error> {
    while !bytes.is_empty() {
        let buffer = NetlinkBuffer::new_checked(bytes).map_err(|error| Error::Decode(error.to_string()))?;
        let length = usize::try_from(buffer.length()).unwrap_or(usize::MAX);
        let payload = bytes.get(NETLINK_HEADER..length).ok_or_else(|| Error::Decode("a truncated message".into()))?;
        let code = payload.first_chunk().map(|code| i32::from_ne_bytes(*code));
        let kind = match (buffer.message_type(), code) {
            (NLMSG_ERROR | NLMSG_DONE, Some(code)) if code != 0 => {
                Kind::Failed(io::Error::from_raw_os_error(code.saturating_neg()))
            }
            (NLMSG_ERROR, Some(_)) => Kind::Ack,
            (NLMSG_ERROR, None) => return Err(Error::Decode("an error without a code".into())),
            (NLMSG_DONE, _) => Kind::Done,
            _ => Kind::Data(payload.get(NETFILTER_HEADER..).ok_or_else(|| Error::Decode("a message without a header".into()))?),
        };
        each(Answer { sequence: buffer.sequence_number(), flags: buffer.flags(), kind })?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

/// What message number `sequence` of a batch asks for.
fn describe(mut bytes: &[u8], sequence: u32) -> String {
    while let Ok(buffer) = NetlinkBuffer::new_checked(bytes) {
        let length = buffer.length() as usize;
        if buffer.sequence_number() == sequence {
            let message = bytes.get(..length).map(NetlinkMessage::<NetfilterMessage>::deserialize);
            if let Some(Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(message), .. })) = message {
                return what(&message);
            }
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    "change the table".into()
}

fn what(message: &NetfilterMessage) -> String {
    let NetfilterMessageInner::NfTables(message) = &message.inner else {
        return match message.inner {
            NetfilterMessageInner::Conntrack(_) => "track connections".into(),
            // The marker fails for the transaction as a whole.
            _ => "commit the transaction".into(),
        };
    };
    let set = |attributes: &[SetAttribute]| {
        attributes.iter().find_map(|a| match a {
            SetAttribute::Name(name) => Some(name.clone()),
            _ => None,
        })
    };
    let chain = |attributes: &[ChainAttribute]| {
        attributes.iter().find_map(|a| match a {
            ChainAttribute::Name(name) => Some(name.clone()),
            _ => None,
        })
    };
    let of_rule = |attributes: &[RuleAttribute]| {
        attributes.iter().find_map(|a| match a {
            RuleAttribute::Chain(name) => Some(name.clone()),
            _ => None,
        })
    };
    let of_element = |attributes: &[SetElementList]| {
        attributes.iter().find_map(|a| match a {
            SetElementList::Set(name) => Some(name.clone()),
            _ => None,
        })
    };
    let (action, name) = match message {
        NfTablesMessage::NewTable(_) => ("make the table", None),
        NfTablesMessage::DeleteTable(_) => ("delete the table", None),
        NfTablesMessage::NewChain(m) => ("make chain", chain(&m.attributes)),
        NfTablesMessage::DeleteChain(m) => ("delete chain", chain(&m.attributes)),
        NfTablesMessage::NewRule(m) => ("add a rule to chain", of_rule(&m.attributes)),
        NfTablesMessage::DeleteRule(m) => ("empty chain", of_rule(&m.attributes)),
        NfTablesMessage::NewSet(m) => ("make set", set(&m.attributes)),
        NfTablesMessage::DeleteSet(m) => ("delete set", set(&m.attributes)),
        NfTablesMessage::NewSetElement(m) => ("add elements to set", of_element(&m.attributes)),
        NfTablesMessage::DeleteSetElement(m) => ("delete elements of set", of_element(&m.attributes)),
        NfTablesMessage::GetTable(_) => ("list the tables", None),
        NfTablesMessage::GetChain(_) => ("list the chains", None),
        NfTablesMessage::GetRule(_) => ("list the rules", None),
        NfTablesMessage::GetSet(_) => ("list the sets", None),
        NfTablesMessage::GetSetElement(m) => ("list the elements of set", of_element(&m.attributes)),
        _ => ("change the table", None),
    };
    match name {
        Some(name) => format!("{action} {name}"),
        None => action.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Rule, expr};

    #[test]
    fn a_refused_step_is_named_by_its_object() {
        let mut batch = Batch::new(Family::V4, "ours", 7);
        batch.make_table();
        batch.empty_chain("all/default/web/tcp/80");
        let mut rule = Rule::new(batch.next_set_id());
        rule.push(expr::verdict(expr::to_drop()));
        batch.add_rule("all/default/web/tcp/80", rule, None);
        let transaction = batch.finish();
        let steps: Vec<String> = transaction.sequence().map(|sequence| describe(transaction.bytes(), sequence)).collect();
        assert_eq!(
            steps,
            [
                "commit the transaction",
                "make the table",
                "empty chain all/default/web/tcp/80",
                "add a rule to chain all/default/web/tcp/80",
                "commit the transaction"
            ]
        );
        assert_eq!(transaction.acknowledged(), 10);
    }

    #[test]
    fn garbage_from_the_kernel_is_an_error_not_a_panic() {
        for garbage in [&[1u8, 2, 3][..], &[255; 20], &[16, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert!(each_answer(garbage, |_| Ok(())).is_err(), "{garbage:?}");
        }
    }
}
