//! The environment of a container: Services, envFrom, env, and the expansion of `$(NAME)`.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use api::core::v1::{Container, EnvVar, Pod, Service};

use super::{
    fields::{self, NodeFacts},
    unit::unit,
};
use crate::cluster::{self, Cluster};

/// The most bytes of environment, command and arguments of a container, `$(NAME)` replaced: what the kernel takes by default, a quarter of a
/// stack of 8 MiB (execve(2)). A few hundred bytes of spec could otherwise ask for gigabytes.
pub const EXPANDED_MAX: usize = 2 << 20;

/// Environment, command and arguments come to more than [`EXPANDED_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "environment, command and arguments come to more than {EXPANDED_MAX} bytes after $(NAME) is replaced; make the values smaller, or mount them as files"
)]
pub struct TooLarge;

/// What is left of [`EXPANDED_MAX`].
#[derive(Clone, Copy, Debug)]
pub struct Budget(usize);

/// A container's environment cannot be made. The text is what people see in the container's status.
#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    /// A ConfigMap or Secret does not exist.
    #[error("{kind} {name:?} not found")]
    Missing {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A ConfigMap or Secret lacks a key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    MissingKey {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
    /// A value is no text.
    #[error("the value of {name} is not valid UTF-8")]
    NotText {
        /// The variable.
        name: String,
    },
    /// A field cannot be read.
    #[error(transparent)]
    Field(#[from] fields::FieldError),
    /// The API server could not be asked.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    /// It comes to too much.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

// === impl Budget ===

impl Budget {
    /// What is left beside these variables.
    ///
    /// # Errors
    /// When they come to more than all.
    pub fn beside(variables: &BTreeMap<String, String>) -> Result<Self, TooLarge> {
        let mut budget = Self::default();
        variables.iter().try_for_each(|(name, value)| budget.take(name.len() + value.len() + 2))?;
        Ok(budget)
    }

    fn take(&mut self, bytes: usize) -> Result<(), TooLarge> {
        self.0 = self.0.checked_sub(bytes).ok_or(TooLarge)?;
        Ok(())
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self(EXPANDED_MAX)
    }
}

/// Variables by name; later ones replace earlier ones of the same name.
type Variables = BTreeMap<String, String>;

/// Makes a container's variables. The pod's status must hold its address if a variable names it.
///
/// # Errors
/// When a variable names what is not there, or what a variable cannot hold.
pub async fn environment(
    cluster: &dyn Cluster,
    node: &NodeFacts,
    pod: &Pod,
    container: &Container,
) -> Result<Variables, EnvError> {
    let namespace = &pod.metadata().namespace;
    let mut variables = Variables::new();
    for service in announced(&cluster.services().await, namespace, pod.spec().enable_service_links != Some(false)) {
        service_variables(service, &mut variables);
    }
    let mut budget = Budget::beside(&variables)?;
    for source in &container.env_from {
        if let Some(reference) = &source.config_map_ref {
            let name = &reference.local_object_reference().name;
            match cluster.config_map(namespace, name).await? {
                Some(map) => {
                    for (key, value) in &map.data {
                        let name = format!("{}{key}", source.prefix);
                        budget.take(name.len() + value.len())?;
                        variables.insert(name, value.clone());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::Missing { kind: "configmap", name: name.clone() }),
            }
        }
        if let Some(reference) = &source.secret_ref {
            let name = &reference.local_object_reference().name;
            match cluster.secret(namespace, name).await? {
                Some(secret) => {
                    for (key, bytes) in &secret.data {
                        let name = format!("{}{key}", source.prefix);
                        budget.take(name.len() + bytes.len())?;
                        let value = text(&name, bytes)?;
                        variables.insert(name, value);
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::Missing { kind: "secret", name: name.clone() }),
            }
        }
    }
    for variable in &container.env {
        if let Some(value) = value_of(cluster, node, pod, container, variable, &variables, &mut budget).await? {
            variables.insert(variable.name.clone(), value);
        }
    }
    Budget::beside(&variables)?;
    Ok(variables)
}

/// Whether the environment names the pod's address.
pub fn needs_address(container: &Container) -> bool {
    container.env.iter().any(|variable| fields::needs_address(&variable.value_from().field_ref().field_path))
}

async fn value_of(
    cluster: &dyn Cluster,
    node: &NodeFacts,
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    earlier: &Variables,
    budget: &mut Budget,
) -> Result<Option<String>, EnvError> {
    let Some(source) = &variable.value_from else { return Ok(Some(expand(&variable.value, earlier, budget)?)) };
    let namespace = &pod.metadata().namespace;
    if let Some(selector) = &source.field_ref {
        return Ok(Some(fields::pod_field(pod, &selector.field_path, node)?));
    }
    if let Some(selector) = &source.resource_field_ref {
        let of = if selector.container_name.is_empty() {
            Cow::Borrowed(container)
        } else {
            let named = unit(pod.spec(), &selector.container_name).map(|unit| unit.spec);
            named.ok_or_else(|| fields::FieldError::NoContainer(selector.container_name.clone()))?
        };
        return Ok(Some(fields::resource_field(&of, selector, node)?));
    }
    if let Some(selector) = &source.config_map_key_ref {
        let (name, optional) = (&selector.local_object_reference().name, selector.optional == Some(true));
        let Some(map) = cluster.config_map(namespace, name).await? else {
            return if optional { Ok(None) } else { Err(EnvError::Missing { kind: "configmap", name: name.clone() }) };
        };
        return match map.data.get(&selector.key) {
            Some(value) => {
                budget.take(value.len())?;
                Ok(Some(value.clone()))
            }
            None if optional => Ok(None),
            None => Err(missing_key("ConfigMap", namespace, name, &selector.key)),
        };
    }
    if let Some(selector) = &source.secret_key_ref {
        let (name, optional) = (&selector.local_object_reference().name, selector.optional == Some(true));
        let Some(secret) = cluster.secret(namespace, name).await? else {
            return if optional { Ok(None) } else { Err(EnvError::Missing { kind: "secret", name: name.clone() }) };
        };
        return match secret.data.get(&selector.key) {
            Some(bytes) => {
                budget.take(bytes.len())?;
                text(&variable.name, bytes).map(Some)
            }
            None if optional => Ok(None),
            None => Err(missing_key("Secret", namespace, name, &selector.key)),
        };
    }
    Ok(Some(String::new()))
}

fn missing_key(kind: &'static str, namespace: &str, name: &str, key: &str) -> EnvError {
    EnvError::MissingKey { kind, namespace: namespace.to_owned(), name: name.to_owned(), key: key.to_owned() }
}

fn text(name: &str, bytes: &[u8]) -> Result<String, EnvError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| EnvError::NotText { name: name.to_owned() })
}

/// Replaces `$(NAME)` by the variable's value; a name that is unknown stays as it is, `$$` is a dollar sign.
///
/// # Errors
/// When the result is longer than what is left.
pub fn expand(input: &str, variables: &Variables, budget: &mut Budget) -> Result<String, TooLarge> {
    let mut out = String::new();
    let mut add = |text: &str| budget.take(text.len()).map(|()| out.push_str(text));
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        add(&rest[..at])?;
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            add("$")?;
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match variables.get(name) {
                Some(value) => add(value)?,
                None => ["$(", name, ")"].into_iter().try_for_each(&mut add)?,
            }
            rest = tail;
        } else {
            add("$")?;
            rest = after;
        }
    }
    add(rest)?;
    Ok(out)
}

/// The Services that a pod is told of, in order: the API server's always, and those of its namespace if it wants them. One of its own
/// namespace goes before the API server's of the same name, so it comes later.
fn announced<'a>(all: &'a [Arc<Service>], namespace: &str, links: bool) -> Vec<&'a Service> {
    let is_master = |service: &Service| service.metadata().namespace == "default" && service.metadata().name == "kubernetes";
    let mut services: Vec<&Service> =
        all.iter().map(|s| &**s).filter(|s| is_master(s) || (links && s.metadata().namespace == *namespace)).collect();
    services.sort_by_key(|service| (service.metadata().namespace == *namespace, &service.metadata().name));
    services
}

/// The variables by which a Service is known in the pods of its namespace.
fn service_variables(service: &Service, variables: &mut Variables) {
    let spec = service.spec();
    if matches!(spec.cluster_ip.as_str(), "" | "None") || spec.ports.is_empty() {
        return;
    }
    let name = service.metadata().name.to_uppercase().replace('-', "_");
    let (ip, first) = (&spec.cluster_ip, &spec.ports[0]);
    variables.insert(format!("{name}_SERVICE_HOST"), ip.clone());
    variables.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
    for (index, port) in spec.ports.iter().enumerate() {
        if !port.name.is_empty() {
            variables
                .insert(format!("{name}_SERVICE_PORT_{}", port.name.to_uppercase().replace('-', "_")), port.port.to_string());
        }
        let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
        let lower = protocol.to_lowercase();
        let url = format!("{lower}://{ip}:{}", port.port);
        if index == 0 {
            variables.insert(format!("{name}_PORT"), url.clone());
        }
        let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
        variables.insert(format!("{prefix}_PROTO"), lower);
        variables.insert(format!("{prefix}_PORT"), port.port.to_string());
        variables.insert(format!("{prefix}_ADDR"), ip.clone());
        variables.insert(prefix, url);
    }
}

#[cfg(test)]
mod tests {
    use api::core::v1::{EnvFromSource, ServicePort};

    use super::*;

    #[test]
    fn known_names_expand_and_others_stay() {
        let variables = Variables::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())]);
        for (input, output) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(NONE)", "$(NONE)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(A", "$(A"),
            ("$A $", "$A $"),
            ("$(B)", "$(A)"),
            ("", ""),
        ] {
            assert_eq!(expand(input, &variables, &mut Budget::default()).unwrap(), output, "{input}");
        }
    }

    #[test]
    fn a_few_bytes_do_not_become_gigabytes() {
        let mut variables = Variables::from([("V0".to_owned(), "x".repeat(1000))]);
        let mut budget = Budget::beside(&variables).unwrap();
        let grown = (1..100).try_for_each(|n| {
            let value = expand(&format!("$(V{})", n - 1).repeat(10), &variables, &mut budget)?;
            variables.insert(format!("V{n}"), value);
            Ok(())
        });
        assert_eq!(grown, Err(TooLarge));
        assert!(Budget::beside(&variables).is_ok(), "what was made is within the bound");
        variables.insert("LARGE".to_owned(), "x".repeat(EXPANDED_MAX));
        assert!(Budget::beside(&variables).is_err(), "also without any expansion");
    }

    #[tokio::test]
    async fn a_map_taken_again_and_again_is_refused_before_it_is_held() {
        let cluster = crate::cluster::fake::FakeCluster::default();
        cluster.add_config_map("large", "key", &"x".repeat(1 << 19));
        let source = |n| {
            let mut source = EnvFromSource { prefix: format!("p{n}_"), ..EnvFromSource::default() };
            source.config_map_ref_mut().local_object_reference_mut().name = "large".into();
            source
        };
        let mut container = Container { env_from: (0..4).map(source).collect(), ..Container::default() };
        let made = environment(&cluster, &NodeFacts::default(), &Pod::default(), &container).await;
        assert!(matches!(made, Err(EnvError::TooLarge(_))));
        container.env_from.pop();
        environment(&cluster, &NodeFacts::default(), &Pod::default(), &container).await.unwrap();
    }

    #[test]
    fn services_are_announced_under_their_customary_names() {
        let mut service = Service::default();
        service.metadata_mut().name = "redis-master".into();
        let port = ServicePort { name: "client".into(), port: 6379, protocol: "TCP".into(), ..ServicePort::default() };
        service.spec_mut().cluster_ip = "10.96.0.11".into();
        service.spec_mut().ports.push(port);
        let mut variables = Variables::new();
        service_variables(&service, &mut variables);
        assert_eq!(variables["REDIS_MASTER_SERVICE_HOST"], "10.96.0.11");
        assert_eq!(variables["REDIS_MASTER_SERVICE_PORT_CLIENT"], "6379");
        assert_eq!(variables["REDIS_MASTER_PORT"], "tcp://10.96.0.11:6379");
        assert_eq!(variables["REDIS_MASTER_PORT_6379_TCP_ADDR"], "10.96.0.11");
        service.spec_mut().cluster_ip = "None".into();
        let mut none = Variables::new();
        service_variables(&service, &mut none);
        assert!(none.is_empty(), "headless Services have no address to announce");
    }

    #[test]
    fn every_pod_is_told_of_the_api_server_and_of_its_neighbours_if_it_likes() {
        let service = |namespace: &str, name: &str, ip: &str| {
            let mut service = Service::default();
            (service.metadata_mut().namespace, service.metadata_mut().name) = (namespace.into(), name.into());
            service.spec_mut().cluster_ip = ip.into();
            Arc::new(service)
        };
        let all = [
            service("shop", "web", "10.96.0.7"),
            service("default", "kubernetes", "10.96.0.1"),
            service("default", "other", "10.96.0.8"),
            service("shop", "kubernetes", "10.96.0.9"),
        ];
        let told = |namespace, links| -> Vec<_> {
            announced(&all, namespace, links).into_iter().map(|service| service.spec().cluster_ip.as_str()).collect()
        };
        assert_eq!(told("shop", true), ["10.96.0.1", "10.96.0.9", "10.96.0.7"], "its own goes before");
        assert_eq!(told("shop", false), ["10.96.0.1"]);
        assert_eq!(told("default", true), ["10.96.0.1", "10.96.0.8"]);
    }
}
