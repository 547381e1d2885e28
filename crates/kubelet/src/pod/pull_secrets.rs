//! Registry credentials from the Secrets that a pod names in imagePullSecrets.

use std::collections::BTreeMap;

use api::core::v1::Pod;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

use crate::{
    cluster::{self, Cluster},
    images::registry,
    runtime::Credentials,
};

/// The keys of the two forms that such a Secret can have.
const DOCKER_CONFIG_JSON: &str = ".dockerconfigjson";
const DOCKER_CONFIG: &str = ".dockercfg";

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
}

/// The credentials for an image; `None` if no Secret has any for its registry. Secrets that are missing or make no sense are passed over, as
/// upstream does: the pull then says what it lacks.
pub(super) async fn credentials(cluster: &dyn Cluster, pod: &Pod, image: &str) -> Result<Option<Credentials>, cluster::Error> {
    for reference in pod.spec().image_pull_secrets.iter().filter(|reference| !reference.name.is_empty()) {
        let Some(secret) = cluster.secret(&pod.metadata().namespace, &reference.name).await? else { continue };
        let entries = if let Some(json) = secret.data.get(DOCKER_CONFIG_JSON) {
            serde_json::from_slice::<DockerConfig>(json).map(|config| config.auths)
        } else if let Some(json) = secret.data.get(DOCKER_CONFIG) {
            serde_json::from_slice(json)
        } else {
            continue;
        };
        if let Some(found) = entries.ok().and_then(|entries| select(entries, image)) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn select(entries: BTreeMap<String, Entry>, image: &str) -> Option<Credentials> {
    let wanted = registry(image);
    entries.into_iter().find_map(|(server, entry)| {
        let host = server.trim_start_matches("https://").trim_start_matches("http://").split('/').next().unwrap_or_default();
        // Docker's own registry has several names.
        let same = host == wanted || (wanted == "docker.io" && host == "index.docker.io");
        if !same {
            return None;
        }
        let decoded = STANDARD.decode(entry.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let (username, password) = match decoded.as_deref().and_then(|text| text.split_once(':')) {
            Some((username, password)) => (username.to_owned(), password.to_owned()),
            None => (entry.username, entry.password),
        };
        Some(Credentials { username, password, server })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_decides_which_credentials_are_used() {
        let entries = || {
            let json = r#"{"auths": {"reg.example:5000": {"auth": "dTpwOnc="}, "https://index.docker.io/v1/": {"username": "d", "password": "x"}}}"#;
            serde_json::from_str::<DockerConfig>(json).unwrap().auths
        };
        let found = select(entries(), "reg.example:5000/a:1").unwrap();
        assert_eq!((found.username.as_str(), found.password.as_str()), ("u", "p:w"));
        assert_eq!(select(entries(), "busybox").unwrap().username, "d");
        assert!(select(entries(), "other.example/a").is_none());
    }
}
