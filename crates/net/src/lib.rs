//! Netfilter over netlink, for everything on a node that filters or translates packets.
//!
//! A [`Batch`] collects changes to one table and becomes a [`Transaction`]; a [`Channel`] carries it out, wholly or not at all, and lists what
//! the kernel has. [`expr`] holds single expressions, [`Rule`] a row of them with the anonymous maps it looks into, [`Set`] what a set is made
//! of. [`conntrack`] ends tracked flows; a [`Monitor`] hears of others' changes. What a table means is its owner's business: kube-proxy's
//! Services, the kubelet's masquerading.
//!
//! *Invariant:* only [`Channel`] and [`Monitor`] do I/O. Everything else turns values into bytes and back.

mod batch;
mod channel;
pub mod conntrack;
pub mod decode;
pub mod expr;
mod family;
pub mod list;
mod monitor;
mod rule;
mod set;

pub use self::{
    batch::{Batch, Hook, Transaction},
    channel::{Channel, Error},
    expr::Expr,
    family::{Family, Protocol, address_from, octets},
    monitor::Monitor,
    rule::Rule,
    set::{Element, Field, Set, element},
};
