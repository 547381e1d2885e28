//! The flags all daemons have in common, and how flags and configuration file come together.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use api::duration::DurationError;
use clap::{CommandFactory, FromArgMatches, error::ContextKind, error::ContextValue};

use crate::{
    config::{self, FileFlags},
    scrape::ScrapeArgs,
};

/// The flags every daemon has.
#[derive(Clone, Debug, clap::Args)]
// Several flag groups of one daemon have this name.
#[group(skip)]
#[command(next_help_heading = "Common options")]
pub struct Args {
    /// YAML file in which every flag can stand under its camelCase name; flags beat the file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Loopback address that serves /livez, /readyz, /metrics and /version over plain HTTP
    #[arg(long, value_name = "IP:PORT", value_parser = loopback)]
    pub admin_address: SocketAddr,
    /// How long open requests and running work have to end after SIGTERM, such as 10s or 1m30s; 1h at most
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = drain_timeout)]
    pub drain_timeout: Duration,
    /// Where metrics are served beyond the host.
    #[command(flatten)]
    pub scrape: ScrapeArgs,
    /// What is logged.
    #[command(flatten)]
    pub log: LogArgs,
}

/// What is logged, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct LogArgs {
    /// Log filter: a level, or a list such as `info,scheduler::queue=debug`
    #[arg(long, value_name = "FILTER", default_value = "info", env = "FERROKUBE_LOG")]
    pub log_level: String,
    /// Log more: -v for debug, -vv for trace (of our own crates)
    #[arg(short = 'v', action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// How log lines are written to stderr
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The kit's flags beside the daemon's own.
#[derive(clap::Parser)]
pub(crate) struct All<A: clap::Args> {
    #[command(flatten)]
    pub(crate) own: A,
    #[command(flatten)]
    pub(crate) common: Args,
}

/// Parses `argv` (program name first) and the configuration file it may name, into the common flags and a daemon's own.
///
/// `admin_address` is this daemon's default for the flag of that name.
///
/// # Errors
/// What clap found wrong (or `--help`/`--version`, which clap returns as errors), with the file and line when the value came from the file.
pub fn parse<A: clap::Args>(
    name: &'static str,
    admin_address: &'static str,
    argv: impl IntoIterator<Item = OsString>,
) -> Result<(Args, A), clap::Error> {
    let mut command = All::<A>::command()
        .name(name)
        .version(crate::VERSION)
        .about(None)
        .mut_arg("admin_address", |arg| arg.default_value(admin_address).required(false));
    command.build();
    let mut argv: Vec<OsString> = argv.into_iter().collect();
    let mut file = FileFlags::default();
    if let Some(path) = config_path(&argv) {
        file = config::flags_from_file(&command, &argv, &path)
            .map_err(|error| command.error(clap::error::ErrorKind::InvalidValue, api::error::chain(&error)))?;
        let end = argv.iter().position(|arg| arg == "--").unwrap_or(argv.len());
        argv.splice(end..end, file.argv.iter().cloned());
    }
    let all = command
        .try_get_matches_from_mut(argv)
        .and_then(|mut matches| All::<A>::from_arg_matches_mut(&mut matches))
        .map_err(|error| name_origin(error, &file, &mut command))?;
    Ok((all.common, all.own))
}

/// Says in which line of the file, and under which key, the flag stands that clap complains about.
fn name_origin(error: clap::Error, file: &FileFlags, command: &mut clap::Command) -> clap::Error {
    let flag = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) => flag.trim_start_matches("--").split([' ', '=']).next(),
        _ => None,
    };
    match flag.and_then(|flag| file.origin.get(flag)) {
        Some(origin) => {
            let text = error.render().to_string();
            let text = text.trim_start_matches("error: ");
            command.error(error.kind(), format!("{origin}: {}", text.split("\n\n").next().unwrap_or(text)))
        }
        None => error,
    }
}

fn config_path(argv: &[OsString]) -> Option<PathBuf> {
    let mut argv = argv.iter().skip(1).take_while(|arg| *arg != "--");
    while let Some(arg) = argv.next() {
        if arg == "--config" {
            return argv.next().map(PathBuf::from);
        }
        if let Some(path) = arg.to_str().and_then(|arg| arg.strip_prefix("--config=")) {
            return Some(path.into());
        }
    }
    None
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "expected IP:PORT".to_owned())?;
    if !address.ip().is_loopback() {
        return Err("this port has no authentication, so it must be on a loopback address such as 127.0.0.1".to_owned());
    }
    Ok(address)
}

fn drain_timeout(text: &str) -> Result<Duration, DurationError> {
    api::duration::parse_within(text, Duration::ZERO..=Duration::from_secs(3600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, clap::Args)]
    struct Own {
        /// Servers
        #[arg(long, required = true, value_delimiter = ',')]
        etcd_servers: Vec<String>,
        /// Port
        #[arg(long, default_value = "6443")]
        secure_port: u16,
        /// Switch
        #[arg(long)]
        dry: bool,
    }

    fn with_file(text: &str, flags: &[&str]) -> Result<(Args, Own), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.yaml");
        std::fs::write(&path, text).unwrap();
        let mut argv: Vec<OsString> = vec!["x".into(), "--config".into(), path.into()];
        argv.extend(flags.iter().map(OsString::from));
        parse::<Own>("x", "127.0.0.1:1", argv).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_sets_required_repeated_and_boolean_flags() {
        let (common, own) = with_file("etcdServers: [a, b]\nsecurePort: 7\ndry: true\nlogLevel: debug\n", &[]).unwrap();
        assert_eq!(own, Own { etcd_servers: vec!["a".into(), "b".into()], secure_port: 7, dry: true });
        assert_eq!(common.log.log_level, "debug");
        assert_eq!(common.admin_address.port(), 1);
    }

    #[test]
    fn a_duration_is_written_the_same_in_the_file_and_as_a_flag() {
        let drain = |outcome: Result<(Args, Own), String>| outcome.map(|(common, _)| common.drain_timeout);
        assert_eq!(drain(with_file("etcdServers: a\n", &[])), Ok(Duration::from_secs(10)));
        assert_eq!(drain(with_file("etcdServers: a\ndrainTimeout: 1m30s\n", &[])), Ok(Duration::from_secs(90)));
        assert_eq!(drain(with_file("etcdServers: a\n", &["--drain-timeout=1h"])), Ok(Duration::from_secs(3600)));
        let error = drain(with_file("etcdServers: a\ndrainTimeout: 10\n", &[])).unwrap_err();
        assert!(error.contains("c.yaml:2: `drainTimeout`") && error.contains("such as 90s"), "{error}");
        let error = drain(with_file("etcdServers: a\n", &["--drain-timeout=2h"])).unwrap_err();
        assert!(error.contains("2h is not from 0s to 1h0m0s"), "{error}");
    }

    #[test]
    fn a_flag_beats_the_file() {
        let (_, own) = with_file("etcdServers: [a, b]\nsecurePort: 7\n", &["--etcd-servers=c", "--secure-port", "8"]).unwrap();
        assert_eq!(own, Own { etcd_servers: vec!["c".into()], secure_port: 8, dry: false });
    }

    #[test]
    fn an_unknown_key_is_an_error_with_file_line_and_suggestion() {
        let error = with_file("etcdServers: a\nsecure-port: 7\n", &[]).unwrap_err();
        assert!(error.contains("c.yaml:2: unknown key `secure-port`; did you mean `securePort`?"), "{error}");
    }

    #[test]
    fn a_wrong_value_in_the_file_is_an_error_with_file_line_and_key() {
        let error = with_file("etcdServers: a\nsecurePort: 70000\n", &[]).unwrap_err();
        assert!(error.contains("c.yaml:2: `securePort`: invalid value '70000' for '--secure-port"), "{error}");
    }

    #[test]
    fn a_missing_file_is_an_error_that_names_it() {
        let argv = ["x", "--config=/nonexistent/c.yaml"].map(OsString::from);
        let error = parse::<Own>("x", "127.0.0.1:1", argv).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/c.yaml"), "{error}");
    }

    #[test]
    fn the_admin_port_stays_on_loopback() {
        let error = with_file("etcdServers: a\nadminAddress: 0.0.0.0:80\n", &[]).unwrap_err();
        assert!(error.contains("loopback"), "{error}");
    }
}
