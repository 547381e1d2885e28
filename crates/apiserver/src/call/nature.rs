//! What can be told of a request before its body is read: by its path, whichever front end it comes to.

use crate::{request::Verb, subresource::Subresource};

/// What a request is like, as far as it concerns how it is read, limited and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nature {
    /// It lasts as long as its client likes: it is counted as a stream, and takes no turn.
    pub(crate) lasts: bool,
    /// Its body is a stream as well, so that it is not read beforehand.
    pub(crate) both_ways: bool,
    /// It carries an object, so that it may be large.
    pub(crate) carries_object: bool,
    /// It changes nothing.
    pub(crate) reads_only: bool,
    /// It needs no credentials.
    pub(crate) public: bool,
}

impl Nature {
    /// A question about the server itself.
    pub(crate) const INFORMATION: Self =
        Self { lasts: false, both_ways: false, carries_object: false, reads_only: true, public: false };

    /// That of a request on objects, or on a subresource of them.
    pub(crate) fn of(verb: Verb, subresource: Option<&Subresource>) -> Self {
        let stream = subresource.and_then(Subresource::stream);
        Self {
            lasts: verb == Verb::Watch || stream.is_some(),
            both_ways: stream.is_some_and(|stream| stream.both_ways),
            carries_object: subresource.is_none() && matches!(verb, Verb::Create | Verb::Update | Verb::Patch),
            reads_only: matches!(verb, Verb::Get | Verb::List | Verb::Watch),
            public: false,
        }
    }
}
