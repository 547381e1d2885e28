//! `kctl cluster-info dump`

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use api::{
    Kind, Resource as _,
    core::v1::{Event, Namespace, Node, Pod, ReplicationController, Service},
    ferrokube::v1::{LogsRequest, PodRef},
};
use client::ListParams;
use futures::TryStreamExt as _;
use serde_json::json;

use crate::{Session, failures::Failures, objects, output::OutputArgs, pods};

/// Bytes of one container's output that are taken.
const MAX_LOG: i64 = 10 << 20;

/// Print what helps to find out what is wrong with a cluster: its objects and what its pods have written
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl cluster-info dump                                         of this namespace and kube-system
  kctl cluster-info dump -A --output-directory=dump              a folder of files
  kctl cluster-info dump --namespaces=shop,default -o yaml

Secrets and ConfigMaps are not in it; what containers write may still be secret.")]
pub struct Args {
    /// Of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Of these namespaces
    #[arg(long, value_name = "NAMES", value_delimiter = ',', conflicts_with = "all_namespaces")]
    namespaces: Vec<String>,
    /// Folder to write files to, instead of printing; - for printing
    #[arg(long, value_name = "FOLDER", default_value = "-", hide_default_value = true)]
    output_directory: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user; the rest is dumped all the same.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    let namespaces = match args.namespaces.as_slice() {
        [] if args.all_namespaces => {
            let all = objects::list_metadata(session, Namespace::KIND, "", &ListParams::default()).await?;
            all.into_iter().map(|meta| meta.name).collect()
        }
        [] => {
            let mut names = vec![session.namespace()?, "kube-system".to_owned()];
            names.dedup();
            names
        }
        names => names.to_vec(),
    };
    let mut failures = Failures::default();
    let outcome = list(session, &args, Node::KIND, "", "nodes").await;
    failures.check(session, outcome)?;
    for namespace in &namespaces {
        let kinds = [
            (Event::KIND, "events"),
            (ReplicationController::KIND, "replication-controllers"),
            (Service::KIND, "services"),
            (Pod::KIND, "pods"),
        ];
        for (kind, file) in kinds {
            let outcome = list(session, &args, kind, namespace, file).await;
            failures.check(session, outcome)?;
        }
        for pod in pods::select(session, namespace, "").await? {
            let outcome = logs(session, &args, &pod).await;
            failures.check(session, outcome)?;
        }
    }
    if args.prints() {
        return failures.finish();
    }
    session.console.line(format!("Cluster info dumped to {}", args.output_directory.display()))?;
    failures.finish()
}

impl Args {
    fn prints(&self) -> bool {
        self.output_directory == Path::new("-")
    }

    fn write(&self, session: &Session, path: &str, text: &str) -> anyhow::Result<()> {
        if self.prints() {
            session.console.print(text)?;
            return Ok(());
        }
        let path = self.output_directory.join(path);
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

async fn list(session: &Session, args: &Args, kind: &'static Kind, namespace: &str, file: &str) -> anyhow::Result<()> {
    let list = objects::list_all(session, kind, namespace, &ListParams::default()).await?;
    let items = list.items.iter().map(objects::to_value).collect::<anyhow::Result<Vec<_>>>()?;
    let value = json!({
        "kind": format!("{}List", kind.kind), "apiVersion": &*kind.api_version,
        "metadata": {"resourceVersion": list.metadata.resource_version}, "items": items,
    });
    let (ending, text) = match args.output.printer() {
        Some(printer) => (if printer.separates_documents() { "yaml" } else { "json" }, printer.value(&value)?),
        None => ("json", serde_json::to_string_pretty(&value)? + "\n"),
    };
    let path = Path::new(namespace).join(format!("{file}.{ending}"));
    args.write(session, &path.display().to_string(), &text)
}

async fn logs(session: &Session, args: &Args, pod: &Pod) -> anyhow::Result<()> {
    let (namespace, name) = (pod.namespace(), pod.name());
    let mut text = String::new();
    for container in pods::container_names(pod) {
        text += &format!("==== START logs for container {container} of pod {namespace}/{name} ====\n");
        match log(session, pod, container).await {
            Ok(log) => text += &log,
            Err(error) => text += &format!("Request log error: {error}\n"),
        }
        text += &format!("==== END logs for container {container} of pod {namespace}/{name} ====\n");
    }
    args.write(session, &format!("{namespace}/{name}/logs.txt"), &text)
}

async fn log(session: &Session, pod: &Pod, container: &str) -> anyhow::Result<String> {
    let request = LogsRequest {
        pod: Some(PodRef { namespace: pod.namespace().to_owned(), name: pod.name().to_owned(), ..PodRef::default() }),
        container: container.to_owned(),
        limit_bytes: MAX_LOG,
        ..LogsRequest::default()
    };
    let read = async {
        let pieces = session.client()?.pods().logs(request).await?;
        anyhow::Ok(pieces.map_ok(|piece| piece.to_vec()).try_concat().await?)
    };
    let bytes = session.shown(&format!("reading what pod/{} has written", pod.name()), read).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use api::core::v1::{Container, PodSpec};

    use super::*;
    use crate::testing::{Bench, named};

    #[tokio::test]
    async fn objects_and_output_go_to_a_folder_or_are_printed() {
        let bench = Bench::new();
        bench.server.put::<Node>(named("n"));
        let mut pod: Pod = named("p");
        pod.spec =
            Some(PodSpec { containers: vec![Container { name: "c".into(), ..Container::default() }], ..PodSpec::default() });
        bench.server.put(pod);
        let text = bench.ok("cluster-info dump").await;
        assert!(
            text.contains("\"NodeList\"") && text.contains("==== START logs for container c of pod default/p ===="),
            "{text}"
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump").display().to_string();
        let line = format!("cluster-info dump --namespaces=default -o yaml --output-directory={path}");
        assert_eq!(bench.ok(&line).await, format!("Cluster info dumped to {path}\n"));
        for file in ["nodes.yaml", "default/events.yaml", "default/pods.yaml", "default/services.yaml", "default/p/logs.txt"] {
            assert!(Path::new(&path).join(file).is_file(), "{file}");
        }
    }
}
