//! Transactions against the kernel, in a network namespace of their own. Needs CAP_SYS_ADMIN and CAP_NET_ADMIN.

#![allow(clippy::unwrap_used, reason = "helpers of tests state their claims by unwrapping, as tests do")]

use std::thread;

use net::{
    Channel, Error, Family, Field, Hook, Rule, Set,
    decode::{attributes, find, text},
    element,
    expr::{self, Operator, Verdict},
    list,
};
use nix::sched::{CloneFlags, unshare};

const TABLE: &str = "net-test";

/// Runs in a new network namespace, on a thread that ends with it.
fn apart(work: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        work();
    });
    thread.join().unwrap();
}

/// How many objects of our table a request lists.
fn count(channel: &mut Channel, request: &netlink_packet_netfilter::NetfilterMessage) -> usize {
    let ours = |object: &[u8]| Ok((find(object, 1).and_then(text) == Some(TABLE)).then_some(()));
    channel.dump(request, ours).unwrap().len()
}

/// A table with one of everything.
fn make(channel: &mut Channel) -> Result<(), Error> {
    let mut batch = channel.batch(Family::V4, TABLE);
    batch.replace_table();
    batch.make_set("peers", &Set::of(Family::V4, &[Field::Source, Field::Protocol]));
    batch.make_chain("input", Some(Hook::FILTER_INPUT));
    for name in ["a", "b"] {
        batch.make_chain(name, None);
    }
    let keys = [[10, 0, 0, 1, 6, 0, 0, 0], [10, 0, 0, 2, 17, 0, 0, 0]];
    batch.add_elements("peers", keys.iter().map(|key| element(key.to_vec(), None)).collect());
    let mut known = Rule::new(batch.next_set_id());
    known.network(Field::Source, Operator::Equal, "10.0.0.0/8".parse().unwrap());
    known.lookup(Family::V4, &[Field::Source, Field::Protocol], "peers", None);
    known.push(expr::verdict(expr::to_chain(Verdict::Jump, "a")));
    batch.add_rule("input", known, Some(vec![0, 2, b'x', 0]));
    let mut turns = Rule::new(batch.next_set_id());
    turns.goto_in_turn(&["a", "b"], 1);
    batch.add_rule("input", turns, None);
    channel.transact(&batch.finish())
}

#[test]
fn what_a_batch_makes_is_listed_and_making_it_again_changes_nothing() {
    apart(|| {
        let mut channel = Channel::open().unwrap();
        for _ in 0..2 {
            make(&mut channel).unwrap();
            assert_eq!(count(&mut channel, &list::tables(Family::V4)), 1);
            assert_eq!(count(&mut channel, &list::chains(Family::V4, TABLE)), 3);
            assert_eq!(count(&mut channel, &list::rules(Family::V4, TABLE)), 2);
            // The second is the map of what comes in turn.
            assert_eq!(count(&mut channel, &list::sets(Family::V4, TABLE)), 2);
            let elements = |set: &[u8]| Ok(Some(attributes(find(set, 3).unwrap_or_default()).count()));
            let listed = channel.dump(&list::elements(Family::V4, TABLE, "peers"), elements).unwrap();
            // They come in as many messages as the kernel likes, the last perhaps without any.
            assert_eq!(listed.into_iter().sum::<usize>(), 2);
        }
    });
}

#[test]
fn a_refused_transaction_does_nothing_and_names_the_step() {
    apart(|| {
        let mut channel = Channel::open().unwrap();
        make(&mut channel).unwrap();
        let mut batch = channel.batch(Family::V4, TABLE);
        batch.empty_chain("input");
        batch.delete_elements("peers", vec![element(vec![10, 9, 9, 9, 6, 0, 0, 0], None)]);
        let error = channel.transact(&batch.finish()).unwrap_err();
        assert!(error.is_absent(), "{error:?}");
        assert_eq!(error.to_string(), "delete elements of set peers");
        assert_eq!(count(&mut channel, &list::rules(Family::V4, TABLE)), 2, "nothing of it was done");
        make(&mut channel).unwrap();
    });
}
