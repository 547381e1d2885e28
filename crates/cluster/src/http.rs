//! The few lines of HTTP that checks need: one plain GET, from the machine or from inside a host.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::Context;

use crate::{net, topology::Host};

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body, if it is text.
    pub body: String,
}

/// Fetches `path` from `address`, an `ip:port`.
///
/// # Errors
/// When nothing that speaks HTTP answers within `limit`.
pub fn get(address: &str, path: &str, limit: Duration) -> anyhow::Result<Answer> {
    let what = || format!("GET http://{address}{path}");
    let to: SocketAddr = address.parse().with_context(what)?;
    let fetch = || {
        let mut stream = TcpStream::connect_timeout(&to, limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = fetch().with_context(what)?;
    parse(&String::from_utf8_lossy(&answer)).with_context(what)
}

/// As [`get`], from inside a host.
///
/// # Errors
/// As [`get`].
pub fn get_within(host: &Host, address: String, path: &str, limit: Duration) -> anyhow::Result<Answer> {
    let path = path.to_owned();
    net::within(host, move || get(&address, &path, limit))
}

fn parse(text: &str) -> anyhow::Result<Answer> {
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).context("no HTTP status")?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok(Answer { status, body: if chunked { dechunk(body) } else { body.to_owned() } })
}

fn dechunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let Some(chunk) = usize::from_str_radix(size.trim(), 16).ok().filter(|size| *size > 0).and_then(|size| rest.get(..size))
        else {
            break;
        };
        text.push_str(chunk);
        body = rest[chunk.len()..].trim_start_matches("\r\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_chunked_bodies_are_read() {
        let plain = parse("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        assert_eq!(plain, Answer { status: 200, body: "ok".into() });
        let chunked = parse("HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").unwrap();
        assert_eq!(chunked, Answer { status: 503, body: "abcde".into() });
    }
}
