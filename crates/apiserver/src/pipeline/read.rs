//! Get, list and watch, all from the watch cache.

use std::sync::Arc;

use api::{Kind, StatusError};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use store::{Entry, ListOptions, ReadAt, Watch, WatchStart};

use super::{Pipeline, Selectors, Stored, decode};
use crate::{reader::store_error, request::Request, subresource::Handler};

/// A list, or one chunk of it.
#[derive(Debug)]
pub struct Page {
    /// The objects.
    pub items: Vec<Arc<Entry>>,
    /// The revision they are as of.
    pub revision: i64,
    /// Where the next chunk begins; empty if there is none.
    pub continue_token: String,
    /// How many objects are left, where that is known.
    pub remaining: Option<i64>,
}

impl Pipeline {
    /// Reads one object, or the body of one of its subresources.
    ///
    /// # Errors
    /// When it does not exist, or etcd does not answer.
    pub async fn get(&self, request: &Request) -> Result<Stored, StatusError> {
        let kind = &request.kind;
        let entry = self.collection(kind)?.get(&request.namespace, &request.name, ReadAt::Latest).await;
        let entry = entry.map_err(|e| store_error(kind, &request.name, e))?;
        match request.subresource.map(|subresource| subresource.handler) {
            Some(Handler::View(view)) => {
                let object = decode(kind, &entry)?;
                let body = (view.read)(&*object).ok_or_else(|| StatusError::not_found(kind, &request.name))?;
                Ok(Stored { kind: body.kind().clone(), bytes: body.encode() })
            }
            _ => Ok(Stored { kind: kind.clone(), bytes: entry.object() }),
        }
    }

    /// Lists objects, all as of one revision.
    ///
    /// # Errors
    /// When a selector or the continue token is malformed, the revision is too old or too new, or etcd does not answer.
    pub async fn list(
        &self,
        request: &Request,
        selectors: &Selectors,
        resource_version: &str,
        limit: i64,
        continue_token: &str,
    ) -> Result<Page, StatusError> {
        let kind = &request.kind;
        let collection = self.collection(kind)?;
        let selection = selectors.selection(kind, collection.layout(), &request.namespace)?;
        // Upstream takes a negative limit for none.
        let limit = usize::try_from(limit).unwrap_or(0);
        let options = if continue_token.is_empty() {
            ListOptions { at: read_at(resource_version)?, limit, ..ListOptions::default() }
        } else {
            let (revision, after) = parse_token(continue_token)?;
            ListOptions { exact: Some(revision), after: Some(after), limit, ..ListOptions::default() }
        };
        let list = collection.list(&selection, options).await.map_err(|e| store_error(kind, "", e))?;
        Ok(Page {
            continue_token: list.next.map(|after| token(list.revision, &after)).unwrap_or_default(),
            remaining: list.remaining.and_then(|n| i64::try_from(n).ok()),
            items: list.items,
            revision: list.revision,
        })
    }

    /// Begins to watch objects.
    ///
    /// # Errors
    /// When a selector or the revision is malformed, the revision is too old or too new, or etcd does not answer.
    pub async fn watch(
        &self,
        request: &Request,
        selectors: &Selectors,
        resource_version: &str,
        initial: bool,
    ) -> Result<Watch, StatusError> {
        let collection = self.collection(&request.kind)?;
        let selection = selectors.selection(&request.kind, collection.layout(), &request.namespace)?;
        let start = match read_at(resource_version)? {
            ReadAt::AtLeast(revision) if !initial => WatchStart::After(revision),
            at => WatchStart::Initial(at),
        };
        collection.watch(selection, start).await.map_err(|e| store_error(&request.kind, "", e))
    }
}

/// The error that ends a watch.
pub(crate) fn watch_error(kind: &Kind, error: store::Error) -> StatusError {
    store_error(kind, "", error)
}

fn read_at(resource_version: &str) -> Result<ReadAt, StatusError> {
    match resource_version {
        "" => Ok(ReadAt::Latest),
        "0" => Ok(ReadAt::Any),
        text => match text.parse() {
            Ok(revision) if revision > 0 => Ok(ReadAt::AtLeast(revision)),
            _ => Err(StatusError::bad_request(format!(
                "resourceVersion: {text:?} is none; use one that a list, watch or object carried"
            ))),
        },
    }
}

fn token(revision: i64, after: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{revision}:{after}"))
}

fn parse_token(token: &str) -> Result<(i64, String), StatusError> {
    let decoded = URL_SAFE_NO_PAD.decode(token.as_bytes()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let parts = decoded.as_deref().and_then(|text| text.split_once(':'));
    match parts.and_then(|(revision, after)| Some((revision.parse().ok()?, after.to_owned()))) {
        Some((revision @ 1.., after)) => Ok((revision, after)),
        _ => Err(StatusError::bad_request("continue: the token is not one that a list returned; start the list anew")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_and_garbage_is_refused() {
        assert_eq!(parse_token(&token(42, "default/a:b")).unwrap(), (42, "default/a:b".to_owned()));
        for garbage in ["", "%", "aGk", "Og", &token(0, "a"), &token(-1, "a")] {
            assert!(parse_token(garbage).is_err(), "{garbage}");
        }
    }
}
