//! Standard output, error and input, or what stands for them in tests.

use std::{
    io::{self, IsTerminal as _, Read, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Where commands print to and read from. Cheap to clone; clones are one.
#[derive(Clone)]
pub struct Console(Arc<Streams>);

struct Streams {
    out: Mutex<Box<dyn Write + Send>>,
    err: Mutex<Box<dyn Write + Send>>,
    input: Mutex<Box<dyn Read + Send>>,
    progress: bool,
}

// === impl Console ===

impl Console {
    /// The process's own streams.
    pub fn process() -> Self {
        Self(Arc::new(Streams {
            out: Mutex::new(Box::new(io::stdout())),
            err: Mutex::new(Box::new(io::stderr())),
            input: Mutex::new(Box::new(io::stdin())),
            progress: io::stderr().is_terminal(),
        }))
    }

    /// Streams made of anything, without a terminal.
    #[cfg(test)]
    pub fn new(
        out: impl Write + Send + 'static,
        err: impl Write + Send + 'static,
        input: impl Read + Send + 'static,
    ) -> Self {
        Self(Arc::new(Streams {
            out: Mutex::new(Box::new(out)),
            err: Mutex::new(Box::new(err)),
            input: Mutex::new(Box::new(input)),
            progress: false,
        }))
    }

    /// True if somebody looks at standard error, so that progress may be shown there.
    pub fn shows_progress(&self) -> bool {
        self.0.progress
    }

    /// Writes to standard output at once.
    ///
    /// # Errors
    /// What the system says, such as a broken pipe.
    pub fn print(&self, text: impl AsRef<[u8]>) -> io::Result<()> {
        write(&self.0.out, text.as_ref())
    }

    /// Writes a line to standard output.
    ///
    /// # Errors
    /// As those of [`Self::print`].
    pub fn line(&self, text: impl AsRef<str>) -> io::Result<()> {
        self.print(format!("{}\n", text.as_ref()))
    }

    /// Writes to standard error at once.
    ///
    /// # Errors
    /// What the system says.
    pub fn print_error(&self, text: impl AsRef<[u8]>) -> io::Result<()> {
        write(&self.0.err, text.as_ref())
    }

    /// Writes a line to standard error. That nobody can read it is no reason to fail.
    pub fn note(&self, text: impl AsRef<str>) {
        self.print_error(format!("{}\n", text.as_ref())).ok();
    }

    /// All of standard input.
    ///
    /// # Errors
    /// What the system says.
    pub fn read_input(&self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        let limit = api::yaml::MAX_SIZE as u64 + 1;
        unpoisoned(&self.0.input).by_ref().take(limit).read_to_end(&mut text)?;
        Ok(text)
    }
}

fn write(stream: &Mutex<Box<dyn Write + Send>>, bytes: &[u8]) -> io::Result<()> {
    let mut stream = unpoisoned(stream);
    stream.write_all(bytes)?;
    stream.flush()
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
