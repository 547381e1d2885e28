//! A guestbook over plain HTTP, each replica with messages of its own.
//!
//! `GET /` names the pod that answers and counts its visits, `POST /messages` writes an entry, `GET /messages` reads them all,
//! `GET /healthz` is for probes. Listens on `0.0.0.0:$PORT`, 8080 by default.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// The longest message, bytes.
const MAX_MESSAGE: u64 = 1024;
/// How many messages are kept.
const MAX_MESSAGES: usize = 1000;
/// How many requests are answered at once; others wait in the listener's backlog.
const WORKERS: usize = 16;

#[derive(Default)]
struct Book {
    host: String,
    visits: AtomicU64,
    messages: Mutex<Vec<String>>,
}

fn main() -> io::Result<()> {
    end_on_sigterm();
    let port = std::env::var("PORT").unwrap_or_else(|_| "8080".to_owned());
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned();
    println!("guestbook on {host} listens on {}", listener.local_addr()?);
    let book = Book { host, ..Book::default() };
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    // A client that goes away in the middle is its own business.
                    if let Err(error) = listener.accept().and_then(|(stream, _)| book.answer(stream)) {
                        eprintln!("{error}");
                    }
                }
            });
        }
    });
    Ok(())
}

/// The first process of a container gets no default action for signals: without this, every stop would take the whole grace period.
fn end_on_sigterm() {
    extern "C" fn end(_: libc::c_int) {
        // SAFETY: `_exit` may be called from a signal handler.
        unsafe { libc::_exit(0) }
    }
    // SAFETY: the handler does nothing but call `_exit`.
    unsafe { libc::signal(libc::SIGTERM, end as *const () as libc::sighandler_t) };
}

// === impl Book ===

impl Book {
    fn answer(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        let mut reader = BufReader::new(stream.try_clone()?.take(16 << 10));
        let mut first = String::new();
        reader.read_line(&mut first)?;
        let mut length = 0;
        for line in reader.by_ref().lines() {
            let line = line?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
                length = value.trim().parse().map_err(|_| io::Error::other(format!("bad {name}")))?;
            }
        }
        let mut words = first.split_whitespace();
        let (status, body) = match (words.next(), words.next()) {
            (Some("GET"), Some("/")) => {
                let visit = self.visits.fetch_add(1, Ordering::Relaxed) + 1;
                ("200 OK", format!("Hello from {}, visit {visit}\n", self.host))
            }
            (Some("GET"), Some("/healthz")) => ("200 OK", "ok\n".to_owned()),
            (Some("GET"), Some("/messages")) => ("200 OK", self.lock().concat()),
            (Some("POST"), Some("/messages")) if length > MAX_MESSAGE => {
                ("413 Content Too Large", format!("at most {MAX_MESSAGE} bytes\n"))
            }
            (Some("POST"), Some("/messages")) => {
                let mut message = String::new();
                reader.take(length).read_to_string(&mut message)?;
                self.write(message.trim())
            }
            _ => ("404 Not Found", "try /, /messages or /healthz\n".to_owned()),
        };
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    }

    fn write(&self, message: &str) -> (&'static str, String) {
        let mut messages = self.lock();
        if messages.len() >= MAX_MESSAGES {
            return ("507 Insufficient Storage", "the book is full\n".to_owned());
        }
        messages.push(format!("{message}\n"));
        ("201 Created", format!("{} has {} messages\n", self.host, messages.len()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
