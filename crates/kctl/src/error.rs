//! How errors end a command: what is printed, and the exit code.

use std::{error::Error as StdError, fmt, io};

use api::status::Reason;
use rustls::CertificateError;

use crate::console::Console;

/// Ends the command with an exit code and nothing more to say than this, if anything.
#[derive(Debug)]
pub struct Exit {
    /// The exit code.
    pub code: u8,
    /// A last line for standard error.
    pub message: Option<String>,
}

impl Exit {
    /// Ends with a code; everything has been said.
    pub fn silent(code: u8) -> anyhow::Error {
        Self { code, message: None }.into()
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.message {
            Some(message) => f.write_str(message),
            None => write!(f, "exit code {}", self.code),
        }
    }
}

impl StdError for Exit {}

/// Prints an error and returns the exit code it ends with.
pub fn report(console: &Console, error: &anyhow::Error) -> u8 {
    if let Some(exit) = error.downcast_ref::<Exit>() {
        if let Some(message) = &exit.message {
            console.note(message);
        }
        return exit.code;
    }
    let broken = |cause: &(dyn StdError + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(broken) {
        // Whoever read our output has seen enough.
        return 0;
    }
    console.note(describe(error));
    1
}

/// An error as people read it: what the server says in kubectl's form, else the whole chain.
pub fn describe(error: &anyhow::Error) -> String {
    let failed = error.chain().find_map(|cause| cause.downcast_ref::<client::Error>());
    match failed {
        Some(client::Error::Api(status)) => {
            // What was tried comes before what the server said about it.
            let contexts: Vec<String> =
                error.chain().take_while(|cause| !cause.is::<client::Error>()).map(|cause| format!("{cause}: ")).collect();
            let context = contexts.concat();
            match status.reason() {
                // What is wrong with an object begins with its kind; the rest is about the request.
                Reason::Invalid if context.is_empty() && status.status().details().kind.is_empty() => {
                    format!("The request is invalid: {}", status.message())
                }
                Reason::Invalid if context.is_empty() => format!("The {}", status.message()),
                reason => format!("Error from server ({}): {context}{}{}", reason.as_str(), status.message(), remedy(reason)),
            }
        }
        Some(client::Error::Transport(_)) => {
            let remedy = error.chain().find_map(tls_remedy).unwrap_or(
                "Check that it runs and that its address is right: `kctl config view` shows what is used, --server and --kubeconfig \
                 override it.",
            );
            format!("Unable to connect to the server: {}\n{remedy}", chain(error))
        }
        _ => format!("error: {}", chain(error)),
    }
}

fn remedy(reason: Reason) -> &'static str {
    match reason {
        Reason::Unauthorized => " (the client certificate or token is missing, expired or of another cluster)",
        _ => "",
    }
}

/// What is wrong with whose certificate, if that is why there is no connection, and what to do about it.
fn tls_remedy(cause: &(dyn StdError + 'static)) -> Option<&'static str> {
    // What the server says of our certificate comes after the handshake, through HTTP/2, which keeps no more than the text of it.
    if let Some(alert) = cause.to_string().strip_prefix("received fatal alert: ") {
        return match alert {
            "CertificateExpired" => Some(
                "Your client certificate has expired: ask for a new one, or use another --user, --client-certificate or --token.",
            ),
            "UnknownCA"
            | "DecryptError"
            | "BadCertificate"
            | "CertificateUnknown"
            | "CertificateRevoked"
            | "UnsupportedCertificate" => Some(
                "The server does not accept your client certificate: another cluster's CA signed it, or it is for another use. \
                 `kctl config view` shows which user it is.",
            ),
            _ => None,
        };
    }
    let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let error = cause.downcast_ref().or_else(|| inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()))?;
    let rustls::Error::InvalidCertificate(wrong) = error else { return None };
    Some(match wrong {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "The server's certificate is not signed by the CA that you trust: it is another cluster, or --certificate-authority (in \
             the configuration: certificate-authority of the cluster) names the wrong file."
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "The server's certificate has expired: it has to be renewed there. If it has not, check the clock here."
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "The server's certificate is for other names: use one of them in the server's address, or say it with --tls-server-name."
        }
        _ => return None,
    })
}

/// The error and its causes in one line, without saying anything twice.
fn chain(error: &anyhow::Error) -> String {
    let mut out = String::new();
    // That there was no answer is what its own causes explain.
    for cause in error.chain().filter(|cause| !matches!(cause.downcast_ref(), Some(client::Error::Transport(_)))) {
        let status =
            cause.downcast_ref::<tonic::Status>().or_else(|| cause.downcast_ref::<Box<tonic::Status>>().map(|status| &**status));
        let text = match status {
            // What happened on the wire is its source.
            Some(status) if status.source().is_some() => continue,
            Some(status) => status.message().to_owned(),
            None => cause.to_string(),
        };
        if out.ends_with(&text) {
            continue;
        }
        if !out.is_empty() {
            out.push_str(": ");
        }
        out.push_str(&text);
    }
    out
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;
    use api::{Resource as _, StatusError, core::v1::Pod};
    use rustls::AlertDescription;

    use super::*;

    #[test]
    fn what_the_server_says_reads_as_in_kubectl() {
        let error = anyhow::Error::from(client::Error::Api(StatusError::not_found(Pod::KIND, "a")));
        assert_eq!(describe(&error), "Error from server (NotFound): pods \"a\" not found");
        let error = Err::<(), _>(error).context("error when deleting \"f\"").unwrap_err();
        assert_eq!(describe(&error), "Error from server (NotFound): error when deleting \"f\": pods \"a\" not found");
    }

    #[test]
    fn whose_certificate_is_wrong_is_said() {
        let remedy = |error: rustls::Error| tls_remedy(&io::Error::other(error));
        let alert = |alert| remedy(rustls::Error::AlertReceived(alert));
        assert!(alert(AlertDescription::CertificateExpired).unwrap().starts_with("Your client certificate has expired"));
        assert!(alert(AlertDescription::UnknownCA).unwrap().starts_with("The server does not accept your client certificate"));
        assert_eq!(alert(AlertDescription::InternalError), None);
        let foreign = remedy(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
        assert!(foreign.unwrap().starts_with("The server's certificate is not signed by the CA"));
        assert_eq!(tls_remedy(&io::Error::from(io::ErrorKind::ConnectionRefused)), None);
    }

    #[test]
    fn our_own_errors_show_their_causes() {
        let error = anyhow::Error::from(io::Error::other("disk on fire")).context("cannot read f");
        assert_eq!(describe(&error), "error: cannot read f: disk on fire");
    }
}
