//! What a process writes, as the engine sends it: raw when there is a terminal, else in frames that tell standard output from standard error. Which
//! of the two is known beforehand and never guessed from the bytes, which are the process's own.

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{StreamExt as _, stream::BoxStream};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{Error, Output, Result};

/// The most bytes that are held at once, whatever length a frame claims.
const CHUNK: usize = 32 << 10;
/// The most bytes of the engine's own message.
const MESSAGE_MAX: u64 = 4 << 10;

/// Decodes a stream, piece by piece as it comes.
pub(super) fn output(reader: impl AsyncRead + Send + Unpin + 'static, terminal: bool) -> BoxStream<'static, Result<Output>> {
    if terminal { raw(reader) } else { framed(reader) }
}

fn raw(mut reader: impl AsyncRead + Send + Unpin + 'static) -> BoxStream<'static, Result<Output>> {
    async_stream::try_stream! {
        let mut buffer = BytesMut::new();
        while let Some(piece) = piece(&mut reader, &mut buffer, CHUNK).await? {
            yield Output::Stdout(piece);
        }
    }
    .boxed()
}

fn framed(mut reader: impl AsyncRead + Send + Unpin + 'static) -> BoxStream<'static, Result<Output>> {
    async_stream::try_stream! {
        let mut buffer = BytesMut::new();
        while let Some((kind, length)) = header(&mut reader).await? {
            let mut left = length;
            if kind == 3 {
                Err(message(&mut reader, left).await)?;
            }
            while left > 0 {
                let Some(piece) = piece(&mut reader, &mut buffer, left).await? else { Err(Error::Incomplete("the end of its stream"))? };
                left -= piece.len();
                yield match kind {
                    0 | 1 => Output::Stdout(piece),
                    2 => Output::Stderr(piece),
                    _ => Err(Error::Incomplete("a kind of output that is known"))?,
                };
            }
        }
    }
    .boxed()
}

/// Some bytes, at most `most`; `None` at the end.
async fn piece(reader: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut, most: usize) -> Result<Option<Bytes>> {
    buffer.reserve(CHUNK);
    let read = reader.read_buf(&mut (&mut *buffer).limit(most.min(CHUNK))).await.map_err(Error::transport)?;
    Ok((read > 0).then(|| buffer.split().freeze()))
}

/// A frame's kind and length; `None` at the end.
async fn header(reader: &mut (impl AsyncRead + Unpin)) -> Result<Option<(u8, usize)>> {
    let mut header = [0; 8];
    let mut filled = 0;
    while filled < header.len() {
        match reader.read(&mut header[filled..]).await.map_err(Error::transport)? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(Error::Incomplete("the end of its stream")),
            read => filled += read,
        }
    }
    let [kind, _, _, _, length @ ..] = header;
    Ok(Some((kind, u32::from_be_bytes(length) as usize)))
}

/// What the engine itself has to say.
async fn message(reader: &mut (impl AsyncRead + Unpin), length: usize) -> Error {
    let mut text = Vec::new();
    match reader.take((length as u64).min(MESSAGE_MAX)).read_to_end(&mut text).await {
        Ok(_) => Error::Engine { status: 0, message: String::from_utf8_lossy(&text).trim_end().to_owned() },
        Err(error) => Error::transport(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn decode(bytes: &[u8], terminal: bool) -> Vec<Result<Output>> {
        output(std::io::Cursor::new(bytes.to_vec()), terminal).collect().await
    }

    fn frame(kind: u8, text: &[u8]) -> Vec<u8> {
        [&[kind, 0, 0, 0][..], &(text.len() as u32).to_be_bytes(), text].concat()
    }

    #[tokio::test]
    async fn a_terminals_bytes_are_never_taken_for_a_header() {
        let bytes = b"\x01\0\0\0\xff\xff\xff\xffprogress 1%\r\x02";
        let pieces = decode(bytes, true).await;
        assert!(matches!(&pieces[..], [Ok(Output::Stdout(whole))] if &whole[..] == bytes));
    }

    #[tokio::test]
    async fn frames_tell_the_streams_apart_and_are_handed_on_in_pieces() {
        let large = vec![b'x'; 3 * CHUNK];
        let pieces = decode(&[frame(1, b"out"), frame(2, b"err"), frame(1, b""), frame(1, &large)].concat(), false).await;
        assert!(matches!(&pieces[0], Ok(Output::Stdout(text)) if &text[..] == b"out"));
        assert!(matches!(&pieces[1], Ok(Output::Stderr(text)) if &text[..] == b"err"));
        let rest: Vec<Bytes> = pieces.into_iter().skip(2).map(|piece| piece.unwrap().into_bytes()).collect();
        assert!(rest.iter().all(|piece| piece.len() <= CHUNK) && rest.concat() == large);
    }

    #[tokio::test]
    async fn what_the_engine_says_is_no_output() {
        let pieces =
            decode(&[frame(1, b"out"), frame(3, b"Error grabbing logs: EOF\n"), frame(1, b"more")].concat(), false).await;
        assert_eq!(pieces.len(), 2);
        assert_eq!(pieces[1].as_ref().unwrap_err().to_string(), "Error grabbing logs: EOF");
        for broken in [frame(9, b"x"), frame(1, b"cut")[..9].to_vec(), vec![1, 0, 0]] {
            assert!(decode(&broken, false).await.pop().unwrap().is_err(), "{broken:?}");
        }
    }
}
