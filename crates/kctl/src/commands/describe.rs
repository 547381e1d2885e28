//! `kctl describe`

use anyhow::bail;

use crate::{
    Session, describe,
    failures::Failures,
    objects,
    resource_args::{ShowArgs, Target},
};

/// Show objects in detail, with the events about them
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl describe pod web-x7k2p
  kctl describe pods web                          all pods whose names begin with web
  kctl describe nodes
  kctl describe svc -l app=web --show-events=false")]
pub struct Args {
    #[command(flatten)]
    show: ShowArgs,
    /// Also show the events about the object
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true,
        action = clap::ArgAction::Set, value_name = "BOOL", hide_possible_values = true)]
    show_events: bool,
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    if !args.show.is_given() {
        bail!("You must specify the type of resource to describe. `kctl api-resources` lists them.");
    }
    let targets = args.show.targets(session)?;
    let (mut failures, mut first) = (Failures::default(), true);
    for target in &targets {
        let found = failures.check(session, find(session, &args, target).await)?;
        for object in found.into_iter().flatten() {
            let Some(value) = failures.check(session, objects::to_value(&object))? else { continue };
            let Some(text) =
                failures.check(session, describe::describe(session, object.kind().forever(), &value, args.show_events).await)?
            else {
                continue;
            };
            let separator = if std::mem::take(&mut first) { "" } else { "\n\n" };
            session.console.print(format!("{separator}{text}"))?;
        }
    }
    if first && !failures.any() {
        match targets.iter().find(|target| !target.namespace.is_empty()) {
            Some(target) => session.console.note(format!("No resources found in {} namespace.", target.namespace)),
            None => session.console.note("No resources found"),
        }
    }
    failures.finish()
}

/// The objects a target means; a name that does not exist stands for all that begin with it.
async fn find(session: &Session, args: &Args, target: &Target) -> anyhow::Result<Vec<client::Dynamic>> {
    let all = || async { objects::list_chunked(session, target.kind, &target.namespace, args.show.params()?).await };
    let Some(name) = &target.name else { return all().await };
    if let Some(object) = objects::get_opt(session, target.kind, &target.namespace, name).await? {
        return Ok(vec![object]);
    }
    let mut similar = all().await?;
    similar.retain(|object| client::Item::meta(object).name.starts_with(name.as_str()));
    if similar.is_empty() {
        return Err(client::Error::from(api::StatusError::not_found(target.kind, name)).into());
    }
    Ok(similar)
}

#[cfg(test)]
mod tests {
    use api::core::v1::{ConfigMap, Event, Pod};

    use crate::testing::{Bench, named};

    #[tokio::test]
    async fn an_object_is_described_with_its_events() {
        let bench = Bench::new();
        let pod = bench.server.put::<Pod>(named("web-1"));
        let mut event: Event = named("e");
        event.involved_object_mut().kind = "Pod".into();
        event.involved_object_mut().name = "web-1".into();
        event.involved_object_mut().uid = pod.metadata().uid.clone();
        event.reason = "Started".into();
        event.r#type = "Normal".into();
        event.message = "Started container c".into();
        bench.server.put(event);
        let text = bench.ok("describe pod web").await;
        assert!(text.starts_with("Name:"), "{text}");
        assert!(text.contains("Events:\n  Type    Reason   Age"), "{text}");
        assert!(text.contains("  Normal  Started  "), "{text}");
    }

    #[tokio::test]
    async fn several_objects_stand_apart() {
        let bench = Bench::new();
        bench.server.put::<ConfigMap>(named("a"));
        bench.server.put::<ConfigMap>(named("b"));
        assert_eq!(bench.ok("describe cm").await.matches("\n\n\nName:").count(), 1);
        assert!(bench.fails("describe cm x").await.contains("configmaps \"x\" not found"));
    }
}
