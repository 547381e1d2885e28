//! One record of the engine's `json-file` format: a line, or a piece of one that is longer than 16 KiB.

use std::borrow::Cow;

use serde::Deserialize;

/// How every record begins. A quotation mark in a text is escaped, so this is found nowhere else.
const BEGINNING: &[u8] = b"{\"log\":";

/// A record.
#[derive(Debug, Deserialize)]
pub(super) struct Record<'a> {
    /// The text, with the line's end if this is the last piece.
    #[serde(borrow, default)]
    pub log: Cow<'a, str>,
    /// `stdout` or `stderr`.
    #[serde(borrow, default)]
    pub stream: Cow<'a, str>,
    /// When it was written.
    #[serde(borrow, default)]
    pub time: Cow<'a, str>,
}

// === impl Record ===

impl<'a> Record<'a> {
    /// Reads a line of a log file; `None` if it is none. An engine that died in the middle of one went on behind it: then the last is what counts.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(line).ok().or_else(|| {
            let at = line.windows(BEGINNING.len()).rposition(|window| window == BEGINNING)?;
            serde_json::from_slice(&line[at..]).ok()
        })
    }

    /// Whether a line ends here.
    pub(super) fn ends_line(&self) -> bool {
        self.log.ends_with('\n')
    }

    /// Which of the two streams, as an index.
    pub(super) fn stream_index(&self) -> usize {
        usize::from(self.stream == "stderr")
    }
}
