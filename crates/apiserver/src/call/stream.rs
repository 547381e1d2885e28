//! Streams with pods: which pod, which container, and the way to the node's kubelet.

use api::{
    Resource, StatusError,
    core::v1::{Node, Pod},
    ferrokube::v1::{LogsRequest, PodRef},
    rules::{FieldErrors, Path},
};

use super::{Purpose, Server, Wanted};
use crate::{decode, kubelets::Link, reader::Reader, request::Request};

impl Server {
    /// The way to the pod that a request is about, and to the container that it wants. The request has been authorised.
    pub(super) async fn link(&self, request: &Request, wanted: &Wanted) -> Result<Link, StatusError> {
        match &wanted.purpose {
            Purpose::Logs(logs) => check_logs(logs)?,
            Purpose::Port(port) => check_port(*port)?,
            Purpose::Process => {}
        }
        let store = self.pipeline.store();
        let pod = Reader::<Pod>::new(store).latest(&request.namespace, &request.name).await?;
        let uid = &pod.metadata().uid;
        if !wanted.uid.is_empty() && wanted.uid != *uid {
            return Err(StatusError::not_found(Pod::KIND, &request.name));
        }
        let of_container = request.subresource.and_then(|part| part.stream()).is_some_and(|stream| stream.of_container);
        let container = if of_container { pick_container(&pod, &wanted.container)? } else { String::new() };
        let node = match pod.spec().node_name.as_str() {
            "" => return Err(StatusError::bad_request(format!("pod {:?} does not have a host assigned", pod.name()))),
            node => Reader::<Node>::new(store).latest("", node).await?,
        };
        let pod = PodRef { namespace: pod.namespace().to_owned(), name: pod.name().to_owned(), uid: uid.clone() };
        self.kubelets.link(&node, pod, container)
    }
}

/// The container that is meant: the named one, the default one, or the only one.
fn pick_container(pod: &Pod, wanted: &str) -> Result<String, StatusError> {
    let spec = pod.spec();
    let names = || spec.containers.iter().map(|c| &c.name).chain(spec.init_containers.iter().map(|c| &c.name));
    let default = pod.metadata().annotations.get("kubectl.kubernetes.io/default-container");
    match (wanted, spec.containers.as_slice()) {
        ("", _) if default.is_some_and(|d| names().any(|n| n == d)) => Ok(default.cloned().unwrap_or_default()),
        ("", [only]) => Ok(only.name.clone()),
        ("", _) => {
            let list: Vec<&str> = names().map(String::as_str).collect();
            Err(StatusError::bad_request(format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                pod.name(),
                list.join(" ")
            )))
        }
        (wanted, _) if names().any(|n| n == wanted) => Ok(wanted.to_owned()),
        (wanted, _) => Err(StatusError::bad_request(format!("container {wanted} is not valid for pod {}", pod.name()))),
    }
}

/// Checks what upstream checks of PodLogOptions.
fn check_logs(request: &LogsRequest) -> Result<(), StatusError> {
    let (mut errors, root) = (FieldErrors::default(), Path::root());
    let numbers = [("tailLines", request.tail_lines), ("limitBytes", Some(request.limit_bytes))];
    for (field, number) in numbers.into_iter().filter_map(|(field, number)| Some((field, number.filter(|n| *n < 0)?))) {
        errors.invalid(&root.field(field), number, "must be greater than or equal to 0");
    }
    if let Some(since) = request.since.filter(|since| jiff::Timestamp::new(since.seconds, since.nanos).is_err()) {
        errors.invalid(&root.field("since"), format!("{} s", since.seconds), "must be a time between the years -9999 and 9999");
    }
    if errors.is_empty() { Ok(()) } else { Err(decode::invalid("LogsRequest", &errors)) }
}

fn check_port(port: u32) -> Result<(), StatusError> {
    let (mut errors, root) = (FieldErrors::default(), Path::root());
    if !(1..=65_535).contains(&port) {
        errors.invalid(&root.field("port"), port, "must be between 1 and 65535, inclusive");
    }
    if errors.is_empty() { Ok(()) } else { Err(decode::invalid("PortForwardRequest", &errors)) }
}
