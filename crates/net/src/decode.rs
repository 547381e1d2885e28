//! Netlink attributes as the kernel sent them, by their numbers.

use netlink_packet_core::{NLA_HEADER_SIZE, NlaBuffer, NlasIterator};

/// The attributes in a stretch of netlink bytes; ends at the first that is malformed.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(|attribute| {
        let attribute = attribute.ok()?;
        Some((attribute.kind(), bytes_of(attribute)))
    })
}

/// The value of the first attribute of a kind.
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(k, value)| (k == kind).then_some(value))
}

/// The text of a NUL-terminated attribute.
pub fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value.strip_suffix(&[0])?).ok()
}

fn bytes_of(attribute: NlaBuffer<&[u8]>) -> &[u8] {
    let end = usize::from(attribute.length());
    attribute.into_inner().get(NLA_HEADER_SIZE..end).unwrap_or_default()
}
