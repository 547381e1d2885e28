//! Reads a log's files one after the other, whatever rotation does to their names. Blocks on the disk, never on the writer.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::PathBuf,
};

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;

use super::{
    files::{self, LogFile},
    record::Record,
};
use crate::runtime::{LogOptions, Output};

/// Bytes read from a file at once.
const READ: usize = 64 << 10;
/// About how many bytes are handed on at once.
const CHUNK: usize = 32 << 10;
/// The longest record: 16 KiB of text, each byte written as six, with room for labels. What is longer is none of the engine's.
const RECORD_MAX: usize = 1 << 20;

/// Where one of the two streams is.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    /// The next record goes on with a line.
    within_line: bool,
    /// That line is wanted.
    wanted: bool,
}

/// Records of one file, in order.
struct Records {
    file: File,
    buffer: Vec<u8>,
    /// How much of the buffer is done with.
    done: usize,
    /// How much of the file is in or behind the buffer.
    position: u64,
}

/// A log that is being read.
pub(super) struct Reader {
    path: PathBuf,
    identity: files::Identity,
    records: Records,
    /// Ends of lines to pass before the first that is wanted.
    skip: u64,
    since: Option<Timestamp>,
    timestamps: bool,
    streams: [Stream; 2],
}

// === impl Reader ===

impl Reader {
    /// Opens a log where the options want it read from.
    pub(super) fn open(path: PathBuf, options: &LogOptions) -> io::Result<Self> {
        let mut files = files::open_all(&path)?;
        let mut skip = 0;
        if let Some(tail) = options.tail {
            let (mut lines, tail) = (0, tail.max(0) as u64);
            for index in 0..files.len() {
                lines += count_lines(&files[index], index == 0)?;
                if lines > tail {
                    skip = lines - tail;
                    files.truncate(index + 1);
                    break;
                }
            }
        }
        let LogFile { file, identity } = files.pop().ok_or(io::ErrorKind::NotFound)?;
        let records = Records::from_start(file)?;
        let streams = [Stream::default(); 2];
        Ok(Self { path, identity, records, skip, since: options.since, timestamps: options.timestamps, streams })
    }

    /// The next output; `None` when all that there is now has been told.
    pub(super) fn next(&mut self) -> io::Result<Option<Output>> {
        let mut text = BytesMut::new();
        let mut of = 0;
        while text.len() < CHUNK {
            let Some(line) = self.records.peek()? else {
                if !text.is_empty() || !self.go_on()? {
                    break;
                }
                continue;
            };
            let length = line.len();
            if let Some(record) = Record::parse(line) {
                let index = record.stream_index();
                if !text.is_empty() && index != of {
                    break;
                }
                of = index;
                let stream = &mut self.streams[index];
                if !stream.within_line {
                    let at = || record.time.parse::<Timestamp>().ok();
                    stream.wanted = self.skip == 0 && self.since.is_none_or(|since| at().is_none_or(|time| time >= since));
                    if stream.wanted
                        && self.timestamps
                        && let Some(time) = at()
                    {
                        text.extend_from_slice(time.strftime("%Y-%m-%dT%H:%M:%S.%9fZ ").to_string().as_bytes());
                    }
                }
                if stream.wanted {
                    text.extend_from_slice(record.log.as_bytes());
                }
                stream.within_line = !record.ends_line();
                self.skip -= u64::from(record.ends_line() && self.skip > 0);
            }
            self.records.take(length);
        }
        let text: Bytes = text.freeze();
        Ok((!text.is_empty()).then(|| if of == 0 { Output::Stdout(text) } else { Output::Stderr(text) }))
    }

    /// At the end of a file: whether there is more to read, here or in the next.
    fn go_on(&mut self) -> io::Result<bool> {
        // First the name, then the length: a file that has lost its name has its last length.
        let rotated = match files::identity(&self.path) {
            Ok(identity) => identity != self.identity,
            // Between two files, or gone with its container.
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if self.records.is_behind()? {
            return Ok(true);
        }
        let next = if rotated { files::next_after(&self.path, self.identity)? } else { None };
        let Some(LogFile { file, identity }) = next else { return Ok(false) };
        self.identity = identity;
        self.records = Records::from_start(file)?;
        Ok(true)
    }
}

/// How many lines end in a file; with `newest` those too that have not ended yet.
fn count_lines(file: &LogFile, newest: bool) -> io::Result<u64> {
    let mut records = Records::from_start(file.file.try_clone()?)?;
    let (mut ends, mut open) = (0, [false; 2]);
    while let Some(line) = records.peek()? {
        let length = line.len();
        if let Some(record) = Record::parse(line) {
            ends += u64::from(record.ends_line());
            open[record.stream_index()] = !record.ends_line();
        }
        records.take(length);
    }
    Ok(ends + if newest { open.into_iter().map(u64::from).sum() } else { 0 })
}

// === impl Records ===

impl Records {
    fn from_start(mut file: File) -> io::Result<Self> {
        file.seek(SeekFrom::Start(0))?;
        Ok(Self { file, buffer: Vec::new(), done: 0, position: 0 })
    }

    /// The next whole line of the file, with its end; `None` if there is none yet.
    fn peek(&mut self) -> io::Result<Option<&[u8]>> {
        let mut searched = self.done;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let end = searched + at + 1;
                return Ok(Some(&self.buffer[self.done..end]));
            }
            searched = self.buffer.len() - self.done;
            self.buffer.drain(..self.done);
            self.done = 0;
            if searched > RECORD_MAX {
                return Err(io::Error::other(format!("a record of the log is longer than {RECORD_MAX} bytes")));
            }
            let read = (&self.file).take(READ as u64).read_to_end(&mut self.buffer)?;
            self.position += read as u64;
            if read == 0 {
                return Ok(None);
            }
        }
    }

    fn take(&mut self, length: usize) {
        self.done += length;
    }

    /// Whether the file has bytes that have not been read. One that has become shorter was begun again.
    fn is_behind(&mut self) -> io::Result<bool> {
        let length = self.file.metadata()?.len();
        if length < self.position {
            *self = Self::from_start(self.file.try_clone()?)?;
        }
        Ok(length > self.position)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn json(stream: &str, second: u32, text: &str) -> String {
        format!(
            "{{\"log\":{},\"stream\":\"{stream}\",\"time\":\"2026-01-02T03:04:{second:02}.5Z\"}}\n",
            serde_json::to_string(text).unwrap()
        )
    }

    fn write(path: &Path, records: &[String]) {
        use io::Write as _;
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(records.concat().as_bytes()).unwrap();
    }

    fn rest(reader: &mut Reader) -> String {
        let mut text = Vec::new();
        while let Some(output) = reader.next().unwrap() {
            text.extend_from_slice(&output.into_bytes());
        }
        String::from_utf8(text).unwrap()
    }

    fn all(path: &Path, options: &LogOptions) -> String {
        rest(&mut Reader::open(path.to_owned(), options).unwrap())
    }

    fn rotate(path: &Path) {
        let name = |number: u32| PathBuf::from(format!("{}.{number}", path.display()));
        for number in (1..3).rev() {
            if name(number).exists() {
                fs::rename(name(number), name(number + 1)).unwrap();
            }
        }
        fs::rename(path, name(1)).unwrap();
        fs::write(path, "").unwrap();
    }

    #[test]
    fn lines_are_counted_and_stamped_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        write(&path, &[json("stdout", 1, "first\n"), json("stderr", 2, "second\n"), json("stdout", 3, &"a".repeat(16))]);
        rotate(&path);
        write(
            &path,
            &[
                json("stdout", 3, &"b".repeat(16)),
                json("stderr", 4, "between\n"),
                json("stdout", 5, "c\n"),
                json("stdout", 6, "open"),
            ],
        );
        let tail = |lines| all(&path, &LogOptions { tail: Some(lines), ..LogOptions::default() });
        let long = format!("{}{}", "a".repeat(16), "b".repeat(16));
        assert_eq!(all(&path, &LogOptions::default()), format!("first\nsecond\n{long}between\nc\nopen"));
        assert_eq!((tail(0).as_str(), tail(1).as_str()), ("", "open"));
        assert_eq!(tail(3), format!("{long}between\nc\nopen"), "not from the middle of a line that begins in an older file");
        assert_eq!(tail(4), format!("second\n{long}between\nc\nopen"));
        assert_eq!(tail(100), all(&path, &LogOptions::default()));
        let stamped = all(&path, &LogOptions { timestamps: true, ..LogOptions::default() });
        assert!(
            stamped.contains(&format!("2026-01-02T03:04:03.500000000Z {long}2026-01-02T03:04:04.500000000Z between\nc\n")),
            "{stamped}"
        );
        let since = Some("2026-01-02T03:04:04.500Z".parse().unwrap());
        assert_eq!(
            all(&path, &LogOptions { since, ..LogOptions::default() }),
            "between\nopen",
            "a line has the time of its beginning"
        );
    }

    #[test]
    fn a_log_is_followed_over_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        write(&path, &[json("stdout", 1, "1\n")]);
        let mut reader = Reader::open(path.clone(), &LogOptions::default()).unwrap();
        assert_eq!(rest(&mut reader), "1\n");
        write(&path, &[json("stdout", 1, "2\n")]);
        rotate(&path);
        write(&path, &[json("stdout", 1, "3\n")]);
        rotate(&path);
        assert_eq!(rest(&mut reader), "2\n3\n");
        assert_eq!(rest(&mut reader), "");
        write(&path, &[json("stdout", 1, "4\n")]);
        fs::rename(&path, dir.path().join("log.1")).unwrap();
        assert_eq!(rest(&mut reader), "4\n", "between two files");
        write(&path, &[json("stdout", 1, "5\n")]);
        assert_eq!(rest(&mut reader), "5\n");
        // So fast that the one being read is gone: from the oldest on.
        for round in 6..12 {
            rotate(&path);
            write(&path, &[json("stdout", 1, &format!("{round}\n"))]);
        }
        assert_eq!(rest(&mut reader), "8\n9\n10\n11\n");
    }

    #[test]
    fn records_that_are_cut_or_not_there_yet_do_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let whole = json("stdout", 1, "whole \"quoted\" {\"log\":1}\n");
        write(
            &path,
            &[json("stdout", 1, "1\n"), whole[..20].to_owned(), whole.clone(), "nonsense\n".to_owned(), whole[..20].to_owned()],
        );
        let mut reader = Reader::open(path.clone(), &LogOptions::default()).unwrap();
        assert_eq!(rest(&mut reader), "1\nwhole \"quoted\" {\"log\":1}\n");
        write(&path, &[whole[20..].to_owned()]);
        assert_eq!(rest(&mut reader), "whole \"quoted\" {\"log\":1}\n");
        fs::write(&path, json("stdout", 2, "anew\n")).unwrap();
        assert_eq!(rest(&mut reader), "anew\n");
    }
}
