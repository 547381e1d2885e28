//! `kctl kustomize`

use std::path::PathBuf;

use crate::{Session, kustomize};

/// Print the objects of a kustomization
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl kustomize                                  of the folder here
  kctl kustomize overlays/production
  kctl kustomize overlays/production -o all.yaml

-k of apply, create, delete, diff, get and others takes a folder like this. Supported are resources, bases, components, namespace, \
namePrefix, nameSuffix, labels, commonLabels, commonAnnotations, images, replicas, configMapGenerator, secretGenerator, \
generatorOptions, patches, patchesStrategicMerge, patchesJson6902 and sortOptions; any other field is refused.")]
pub struct Args {
    /// The folder, in which a kustomization.yaml is
    #[arg(value_name = "FOLDER", default_value = ".", value_hint = clap::ValueHint::DirPath)]
    folder: PathBuf,
    /// Write them to this file instead
    #[arg(short = 'o', long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user.
pub fn run(session: &Session, args: &Args) -> anyhow::Result<()> {
    let text = kustomize::render(&args.folder)?;
    match &args.output {
        Some(path) => std::fs::write(path, text).map_err(|error| anyhow::anyhow!("cannot write {}: {error}", path.display()))?,
        None => session.console.print(text)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use api::core::v1::ConfigMap;

    use crate::testing::Bench;

    #[tokio::test]
    async fn a_kustomization_is_printed_applied_compared_and_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let text = "namePrefix: x-\nconfigMapGenerator: [{name: m, literals: [a=1], options: {disableNameSuffixHash: true}}]\n";
        std::fs::write(folder.path().join("kustomization.yaml"), text).unwrap();
        let path = folder.path().display();
        let bench = Bench::new();
        let printed = bench.ok(&format!("kustomize {path}")).await;
        assert_eq!(printed, "apiVersion: v1\ndata:\n  a: \"1\"\nkind: ConfigMap\nmetadata:\n  name: x-m\n");
        bench.exits(&format!("diff -k {path}"), 1).await;
        assert_eq!(bench.ok(&format!("apply -k {path}")).await, "configmap/x-m created\n");
        assert_eq!(bench.ok(&format!("diff -k {path}")).await, "");
        assert_eq!(bench.ok(&format!("get -k {path} -o name")).await, "configmap/x-m\n");
        assert!(bench.ok(&format!("describe -k {path}")).await.contains("x-m"));
        bench.ok(&format!("delete -k {path}")).await;
        assert!(bench.server.all::<ConfigMap>().is_empty());
        bench.ok(&format!("create -k {path}")).await;
        assert!(bench.fails(&format!("apply -k {path} -f x")).await.contains("cannot be used with"));
        assert!(bench.fails("apply -k /nowhere").await.contains("/nowhere"));
    }
}
