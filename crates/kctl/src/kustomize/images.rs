//! Images and numbers of replicas.

use anyhow::bail;
use serde_json::Value;

use super::{
    Item,
    file::{Image, Replicas},
};
use crate::objects;

/// Kinds that have replicas.
const REPLICATED: [&str; 4] = ["Deployment", "ReplicaSet", "ReplicationController", "StatefulSet"];

/// Gives containers other images.
pub fn run(images: &[Image], items: &mut [Item]) {
    if images.is_empty() {
        return;
    }
    for item in items.iter_mut().filter(|item| item.kind() != "CustomResourceDefinition") {
        containers(&mut item.value, &mut |container| {
            let Some(Value::String(image)) = container.get_mut("image") else { return };
            for wanted in images {
                if let Some(new) = changed(image, wanted) {
                    *image = new;
                }
            }
        });
    }
}

/// Every container of an object, wherever its pods are described.
fn containers(value: &mut Value, visit: &mut impl FnMut(&mut Value)) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if matches!(key.as_str(), "containers" | "initContainers") {
                    value.as_array_mut().into_iter().flatten().for_each(&mut *visit);
                }
                containers(value, visit);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| containers(value, visit)),
        _ => {}
    }
}

/// An image's name, tag and digest; the last two with what stands before them.
fn parts(image: &str) -> (&str, &str, &str) {
    let (rest, digest) = image.find('@').map_or((image, ""), |at| image.split_at(at));
    // A colon before a slash is a registry's port.
    let after_slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = rest[after_slash..].find(':').map_or((rest, ""), |at| rest.split_at(after_slash + at));
    (name, tag, digest)
}

/// The image as wanted, if it is the one that is meant.
fn changed(image: &str, wanted: &Image) -> Option<String> {
    let (name, tag, digest) = parts(image);
    if name != wanted.name {
        return None;
    }
    let name = if wanted.new_name.is_empty() { name } else { &wanted.new_name };
    let (mut tag, mut digest) = (tag.to_owned(), digest.to_owned());
    if !wanted.new_tag.is_empty() {
        (tag, digest) = (format!(":{}", wanted.new_tag), String::new());
    }
    if !wanted.tag_suffix.is_empty() {
        let plain = if tag.is_empty() { ":latest" } else { tag.as_str() };
        (tag, digest) = (format!("{plain}{}", wanted.tag_suffix), String::new());
    }
    if !wanted.digest.is_empty() {
        digest = format!("@{}", wanted.digest);
        if wanted.new_tag.is_empty() {
            tag.clear();
        }
    }
    Some(format!("{name}{tag}{digest}"))
}

/// Sets numbers of replicas.
///
/// # Errors
/// When there is no object of a name.
pub fn replicas(wanted: &[Replicas], items: &mut [Item]) -> anyhow::Result<()> {
    for Replicas { name, count } in wanted {
        let mut any = false;
        for item in items.iter_mut().filter(|item| REPLICATED.contains(&item.kind())) {
            if item.known.0 == *name || item.name() == name {
                objects::set(&mut item.value, &["spec", "replicas"], (*count).into());
                any = true;
            }
        }
        if !any {
            bail!("replicas: resource with name {name} does not match an object of {}", REPLICATED.join(", "));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_changed_as_wanted() {
        let wanted = |new_name: &str, new_tag: &str, digest: &str| Image {
            name: "r:5000/a".into(),
            new_name: new_name.into(),
            new_tag: new_tag.into(),
            digest: digest.into(),
            ..Image::default()
        };
        assert_eq!(changed("r:5000/a:1", &wanted("", "2", "")).unwrap(), "r:5000/a:2");
        assert_eq!(changed("r:5000/a", &wanted("b", "", "")).unwrap(), "b");
        assert_eq!(changed("r:5000/a:1@sha256:0", &wanted("b", "2", "")).unwrap(), "b:2");
        assert_eq!(changed("r:5000/a:1", &wanted("", "", "sha256:1")).unwrap(), "r:5000/a@sha256:1");
        assert_eq!(changed("r:5000/ab:1", &wanted("", "2", "")), None);
    }
}
