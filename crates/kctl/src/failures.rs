//! Several objects, several outcomes: what fails is reported at once and the rest goes on.

use crate::{
    Session,
    error::{self, Exit},
};

/// Counts what failed.
#[derive(Debug, Default)]
pub struct Failures(usize);

impl Failures {
    /// Reports an error and goes on. An [`Exit`] and a broken pipe end the command instead.
    ///
    /// # Errors
    /// What must end the command.
    pub fn check<T>(&mut self, session: &Session, outcome: anyhow::Result<T>) -> anyhow::Result<Option<T>> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is::<Exit>() || error.is::<std::io::Error>() || unreachable(&error) => Err(error),
            Err(error) => {
                session.console.note(error::describe(&error));
                self.0 += 1;
                Ok(None)
            }
        }
    }

    /// True if anything failed.
    pub fn any(&self) -> bool {
        self.0 > 0
    }

    /// Fails if anything did.
    ///
    /// # Errors
    /// A silent exit with code 1.
    pub fn finish(self) -> anyhow::Result<()> {
        if self.0 == 0 { Ok(()) } else { Err(Exit::silent(1)) }
    }
}

/// Without a server the next object will fare no better.
fn unreachable(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(client::Error::Transport(_))))
}
