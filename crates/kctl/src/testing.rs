//! Runs commands against the in-memory API server and keeps what they print.

use std::{
    io::{Cursor, Write},
    sync::{Arc, Mutex},
};

use api::Resource;
use client::testing::MemoryServer;

use crate::{Session, cli, console::Console, session::GlobalArgs};

/// A server and the streams of the commands that run against it.
pub struct Bench {
    /// The server.
    pub server: MemoryServer,
    out: Captured,
    err: Captured,
    input: String,
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Captured {
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }

    fn peek(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Bench {
    pub fn new() -> Self {
        Self { server: MemoryServer::new(), out: Captured::default(), err: Captured::default(), input: String::new() }
    }

    /// The same with this text as standard input.
    pub fn input(mut self, text: &str) -> Self {
        self.input = text.to_owned();
        self
    }

    /// The same server with this text as standard input.
    pub fn with_input(&self, text: &str) -> Self {
        Self { server: self.server.clone(), out: Captured::default(), err: Captured::default(), input: text.to_owned() }
    }

    /// A session of this server. The words say for which command; only its global flags matter.
    pub fn session(&self, _: &[&str]) -> Session {
        let console = Console::new(self.out.clone(), self.err.clone(), Cursor::new(self.input.clone().into_bytes()));
        Session::over(self.server.client(), GlobalArgs::default(), console)
    }

    /// Runs a command line that must succeed; returns what it printed.
    pub async fn ok(&self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.ok_words(&words).await
    }

    /// As [`Self::ok`], with arguments that hold spaces.
    pub async fn ok_words(&self, words: &[&str]) -> String {
        self.err.take();
        let code = Box::pin(cli::run_line(self.session(words), words)).await;
        assert_eq!(code, 0, "{words:?}: {}", self.err.peek());
        self.out.take()
    }

    /// Runs a command line that must end with this exit code; returns what it printed.
    pub async fn exits(&self, line: &str, wanted: u8) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.err.take();
        let code = Box::pin(cli::run_line(self.session(&words), &words)).await;
        assert_eq!(code, wanted, "{line}: {}", self.err.peek());
        self.out.take()
    }

    /// Runs a command line that must fail with exit code 1; returns what it said on standard error.
    pub async fn fails(&self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.err.take();
        let code = Box::pin(cli::run_line(self.session(&words), &words)).await;
        assert_eq!(code, 1, "{line}: {}", self.out.peek());
        self.out.take();
        self.err.take()
    }

    /// What was said on standard error since the last command that was run here began.
    pub fn errors(&self) -> String {
        self.err.take()
    }

    /// What has been printed.
    pub fn output(&self) -> String {
        self.out.peek()
    }

    /// Waits until something has been printed.
    pub async fn output_has(&self, text: &str) {
        let wait = async {
            while !self.out.peek().contains(text) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let bound = std::time::Duration::from_secs(20);
        assert!(tokio::time::timeout(bound, wait).await.is_ok(), "no {text:?} in {:?}, {:?}", self.out.peek(), self.err.peek());
    }
}

/// An object of this name, in the namespace `default` if it has one.
pub fn named<K: Resource>(name: &str) -> K {
    let mut object = K::default();
    object.metadata_mut().name = name.to_owned();
    if K::KIND.namespaced {
        object.metadata_mut().namespace = "default".to_owned();
    }
    object
}
