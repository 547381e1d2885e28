//! Tracing to stderr, and a panic hook that goes the same way.

use std::{backtrace::Backtrace, io::IsTerminal, panic};

use tracing_subscriber::{EnvFilter, filter::ParseError, layer::SubscriberExt, util::SubscriberInitExt};

use crate::args::{LogArgs, LogFormat};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// The filter is not one.
    #[error(
        "--log-level: `{filter}` is not a log filter; write a level (error, warn, info, debug, trace) or `level,module=level`"
    )]
    Filter {
        /// As given.
        filter: String,
        /// Why.
        #[source]
        source: ParseError,
    },
}

/// Sends the process's log lines to stderr. A second call changes nothing.
pub(crate) fn init(args: &LogArgs) -> Result<(), LogError> {
    let filter = filter(args)?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let outcome = match args.log_format {
        LogFormat::Text => registry.with(layer.with_ansi(std::io::stderr().is_terminal())).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    if outcome.is_ok() {
        panic::set_hook(Box::new(log_panic));
    }
    Ok(())
}

/// `-v` raises our own crates only: the transport's debug lines would drown them.
fn filter(args: &LogArgs) -> Result<EnvFilter, LogError> {
    let quiet = "h2=info,hyper=info,hyper_util=info,rustls=info,tower=info,netlink_proto=info";
    let directives = match args.verbose {
        0 => args.log_level.clone(),
        1 => format!("debug,{quiet},{}", args.log_level.replace("info", "debug")),
        _ => format!("trace,{quiet},{}", args.log_level.replace("info", "trace")),
    };
    EnvFilter::try_new(&directives).map_err(|source| LogError::Filter { filter: args.log_level.clone(), source })
}

fn log_panic(info: &panic::PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("(no message)");
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    tracing::error!(message, location, thread = thread.name().unwrap_or("?"), backtrace = %Backtrace::capture(), "panic");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_filter_is_an_error_that_shows_what_is_right() {
        let args = LogArgs { log_level: "a=loud".into(), verbose: 0, log_format: LogFormat::Text };
        let error = filter(&args).unwrap_err().to_string();
        assert!(error.contains("a=loud") && error.contains("debug"), "{error}");
    }
}
