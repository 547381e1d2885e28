//! `cluster up`, `down` and `status`: what `scripts/up` and `scripts/down` call.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use cluster::{Cluster, Daemon, Size, UpOptions, daemons, process, progress::Progress, topology};

/// A Ferrokube cluster on one machine.
#[derive(Parser)]
#[command(name = "cluster", disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// Where the cluster's files are; default `.cluster` in the repository
    #[arg(long, global = true, env = "FERROKUBE_DIR", value_name = "DIR")]
    dir: Option<PathBuf>,
    /// What the names of its namespaces, links and cgroups begin with
    #[arg(long, global = true, default_value = "fk", env = "FERROKUBE_PREFIX")]
    prefix: String,
    /// First three bytes of its /24 of host addresses
    #[arg(long, global = true, default_value = "172.30.0", env = "FERROKUBE_SUBNET", value_parser = subnet)]
    subnet: Subnet,
}

#[derive(Subcommand)]
enum Command {
    /// Start whatever of the cluster is not running
    Up {
        /// Nodes [default: 3]
        #[arg(long, value_name = "N")]
        nodes: Option<u8>,
        /// etcd members [default: 3]
        #[arg(long, value_name = "M")]
        etcd: Option<u8>,
        /// API servers, each with a scheduler and a controller manager [default: 1]
        #[arg(long, value_name = "K")]
        apiservers: Option<u8>,
        /// Leave out the example application
        #[arg(long)]
        bare: bool,
        /// Where the built programs are; default: beside this one
        #[arg(long, value_name = "DIR")]
        programs: Option<PathBuf>,
    },
    /// Stop and remove all of it
    Down,
    /// Tell what runs, and what is on the machine
    Status,
}

#[derive(Clone, Copy)]
struct Subnet([u8; 3]);

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<ExitCode> {
    let dir = args.dir.unwrap_or_else(topology::default_dir);
    let Subnet(subnet) = args.subnet;
    let progress = Progress::default();
    match args.command {
        Command::Up { nodes, etcd, apiservers, bare, programs } => {
            let beside = || Some(std::env::current_exe().ok()?.parent()?.to_owned());
            let programs = programs.or_else(beside).context("--programs is needed: cannot tell where this program is")?;
            Cluster::up(&dir, &args.prefix, subnet, &UpOptions { nodes, etcd, apiservers, bare, programs }, &progress)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Down => {
            // A file that cannot be read must not keep anything from being removed.
            let cluster = match Cluster::open(&dir) {
                Ok(Some(cluster)) => cluster,
                _ => Cluster::new(&dir, &args.prefix, subnet, Size::default())?,
            };
            cluster.down(&progress)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Status => status(&dir, &args.prefix, subnet),
    }
}

/// Exit code 0 when all of it runs, or when nothing of it is on the machine; 1 otherwise.
fn status(dir: &std::path::Path, prefix: &str, subnet: [u8; 3]) -> anyhow::Result<ExitCode> {
    let Some(cluster) = Cluster::open(dir)? else {
        let left = Cluster::new(dir, prefix, subnet, Size::default())?.leftovers();
        for thing in &left {
            println!("left behind: {thing}");
        }
        println!("no cluster in {}", dir.display());
        return Ok(if left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    };
    let mut good = true;
    for daemon in Daemon::ALL {
        for host in cluster.hosts_of(daemon) {
            let state = match (process::running(&cluster, &host, daemon), daemons::ready(&cluster, &host, daemon)) {
                (None, _) => "not running".to_owned(),
                (Some(process), Ok(())) => format!("ready, pid {}", process.pid),
                (Some(process), Err(reason)) => {
                    format!("pid {}, not ready: {reason:#}", process.pid)
                }
            };
            good &= state.starts_with("ready");
            println!("{daemon} on {} ({}): {state}", host.name, host.address);
        }
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn subnet(text: &str) -> Result<Subnet, String> {
    let bytes: Vec<u8> =
        text.split('.').map(str::parse).collect::<Result<_, _>>().map_err(|_| "three bytes such as 172.30.0".to_owned())?;
    bytes.try_into().map(Subnet).map_err(|_| "three bytes such as 172.30.0".to_owned())
}
