//! `kctl cluster-info`, `version` and `completion`

use anyhow::Context as _;
use api::{API_LEVEL, coordination::v1::Lease, names::SYSTEM_NAMESPACE};
use clap::Subcommand;
use clap_complete::Shell;
use jiff::Timestamp;
use serde_json::json;

use super::dump;
use crate::{Session, complete, output::OutputArgs};

/// Leases of those of which one leads at a time.
const LEADING: [&str; 2] = ["kube-scheduler", "kube-controller-manager"];

/// Show where the cluster is, and who leads in it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl cluster-info
  kctl cluster-info dump --output-directory=dump")]
pub struct ClusterInfoArgs {
    #[command(subcommand)]
    what: Option<More>,
}

/// What more there is to know.
#[derive(Debug, Subcommand)]
enum More {
    Dump(dump::Args),
}

/// Show the versions of client and server
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl version
  kctl version --client -o json")]
pub struct VersionArgs {
    /// Only the client's, without asking the server
    #[arg(long)]
    client: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Print a script that completes kctl's command lines in a shell: commands, flags, kinds, names
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  source <(kctl completion bash)                              or in ~/.bashrc
  source <(kctl completion zsh)                               or in ~/.zshrc, after compinit
  kctl completion fish > ~/.config/fish/completions/kctl.fish")]
pub struct CompletionArgs {
    /// The shell
    shell: Shell,
}

/// Runs `cluster-info`.
///
/// # Errors
/// What went wrong, for the user.
pub async fn cluster_info(session: &Session, args: ClusterInfoArgs) -> anyhow::Result<()> {
    if let Some(More::Dump(args)) = args.what {
        return dump::run(session, args).await;
    }
    let config = session.config()?;
    let client = session.client()?;
    let version = session.shown("asking the server", client.version()).await?;
    for server in &config.servers {
        let server = server.to_string();
        session.console.line(format!("Kubernetes control plane is running at {}", server.trim_end_matches('/')))?;
    }
    session.console.line(format!("Server version: {} (Kubernetes {})", version.git_version, version.api_level))?;
    leaders(session).await
}

/// Says which of several processes leads.
async fn leaders(session: &Session) -> anyhow::Result<()> {
    let api = session.client()?.namespaced::<Lease>(SYSTEM_NAMESPACE);
    for name in LEADING {
        let text = match session.shown("reading leases", api.get_opt(name)).await {
            Ok(lease) => leader(name, lease.as_ref(), Timestamp::now()),
            Err(error) => {
                session.console.note(format!("It is not known which {name} leads: {error}"));
                continue;
            }
        };
        session.console.line(text)?;
    }
    Ok(())
}

/// Who leads, as a lease tells.
fn leader(name: &str, lease: Option<&Lease>, now: Timestamp) -> String {
    let spec = lease.map(Lease::spec).filter(|spec| !spec.holder_identity().is_empty());
    let Some(spec) = spec else { return format!("No {name} leads") };
    let age = now.duration_since(spec.renew_time().timestamp());
    let (holder, ago) = (spec.holder_identity(), api::print::human_duration(age));
    // A lease that nobody renews is free.
    if age.as_secs() > i64::from(spec.lease_duration_seconds()) {
        return format!("No {name} leads: {holder} did, and was last heard of {ago} ago");
    }
    format!("The {name} that leads is {holder}, heard of {ago} ago")
}

/// Runs `version`.
///
/// # Errors
/// What went wrong, for the user; the client's version is printed all the same.
pub async fn version(session: &Session, args: VersionArgs) -> anyhow::Result<()> {
    let ours = format!("v{}", env!("CARGO_PKG_VERSION"));
    let server = if args.client {
        None
    } else {
        let ask = async {
            let client = session.client()?;
            anyhow::Ok(session.shown("asking the server", client.version()).await?)
        };
        Some(ask.await)
    };
    if let Some(printer) = args.output.printer() {
        let mut value = json!({"clientVersion": {"gitVersion": ours, "apiLevel": API_LEVEL}});
        if let Some(Ok(server)) = &server {
            value["serverVersion"] =
                json!({"gitVersion": server.git_version, "apiLevel": server.api_level, "platform": server.platform});
        }
        session.console.print(printer.value(&value)?)?;
    } else {
        session.console.line(format!("Client Version: {ours} (Kubernetes {API_LEVEL})"))?;
        if let Some(Ok(server)) = &server {
            session.console.line(format!("Server Version: {} (Kubernetes {})", server.git_version, server.api_level))?;
        }
    }
    match server {
        Some(Err(error)) => Err(error).context("cannot tell the server's version"),
        _ => Ok(()),
    }
}

/// Runs `completion`.
///
/// # Errors
/// When nobody reads it.
pub fn completion(session: &Session, args: &CompletionArgs) -> anyhow::Result<()> {
    session.console.print(complete::script(args.shell)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use api::{coordination::v1::Lease, meta::v1::MicroTime};
    use jiff::Timestamp;

    use super::leader;
    use crate::testing::{Bench, named};

    #[tokio::test]
    async fn who_leads_is_shown() {
        let bench = Bench::new();
        let mut lease: Lease = named("kube-scheduler");
        lease.metadata_mut().namespace = "kube-system".into();
        lease.spec_mut().holder_identity = Some("cp-1_x".into());
        lease.spec_mut().lease_duration_seconds = Some(15);
        lease.spec_mut().renew_time = Some(MicroTime::now());
        bench.server.put(lease.clone());
        super::leaders(&bench.session(&[])).await.unwrap();
        let output = bench.output();
        assert!(output.starts_with("The kube-scheduler that leads is cp-1_x, heard of 0s ago\n"), "{output}");
        assert!(output.ends_with("No kube-controller-manager leads\n"), "{output}");
        let later = Timestamp::now() + jiff::SignedDuration::from_secs(60);
        let text = leader("kube-scheduler", Some(&lease), later);
        assert!(text.starts_with("No kube-scheduler leads: cp-1_x did, and was last heard of "), "{text}");
    }

    #[tokio::test]
    async fn versions_and_completion_are_printed() {
        let bench = Bench::new();
        let text = bench.ok("version").await;
        assert!(text.starts_with("Client Version: v") && text.contains("\nServer Version: v0.0.0-test"), "{text}");
        assert!(bench.ok("version --client -o json").await.contains("\"clientVersion\""));
        for shell in ["bash", "zsh", "fish"] {
            assert!(bench.ok(&format!("completion {shell}")).await.contains("kctl"));
        }
    }
}
