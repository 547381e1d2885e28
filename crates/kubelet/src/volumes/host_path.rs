//! hostPath volumes: what the host has, after the check or creation that their type asks for.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use futures::{FutureExt as _, future::BoxFuture};

use super::{
    Problem, blocking,
    plugin::{Plugin, Published, Request},
};

pub(super) struct HostPath;

impl Plugin for HostPath {
    fn directory(&self) -> &'static str {
        "host-path"
    }

    fn publish<'a>(&'a self, request: &'a Request<'a>) -> BoxFuture<'a, Result<Published, Problem>> {
        async move {
            let source = request.source().host_path();
            let (path, kind) = (PathBuf::from(&source.path), source.r#type.clone().unwrap_or_default());
            let checked = path.clone();
            blocking(move || check(&checked, &kind).map_err(Problem::HostPath)).await?;
            Ok(Published { path, renew_at: None })
        }
        .boxed()
    }

    /// What is there is the host's.
    fn unpublish<'a>(&'a self, _: &'a Path) -> BoxFuture<'a, Result<(), Problem>> {
        std::future::ready(Ok(())).boxed()
    }
}

/// Checks (and for the `…OrCreate` types makes) what a hostPath volume names. The error is the message for people.
fn check(path: &Path, kind: &str) -> Result<(), String> {
    let shown = path.display();
    let found = match fs::metadata(path) {
        Ok(metadata) => Some(metadata.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(format!("cannot look at {shown}: {error}")),
    };
    let create = |result: io::Result<()>| result.map_err(|error| format!("cannot create {shown}: {error}"));
    match (kind, found) {
        ("", Some(_)) => Ok(()),
        // As the engine does for paths that nobody checks.
        ("" | "DirectoryOrCreate", None) => create(fs::DirBuilder::new().recursive(true).mode(0o755).create(path)),
        ("FileOrCreate", None) => create(fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path).map(drop)),
        ("DirectoryOrCreate" | "Directory", Some(kind)) if kind.is_dir() => Ok(()),
        ("FileOrCreate" | "File", Some(kind)) if kind.is_file() => Ok(()),
        ("Socket", Some(kind)) if kind.is_socket() => Ok(()),
        ("CharDevice", Some(kind)) if kind.is_char_device() => Ok(()),
        ("BlockDevice", Some(kind)) if kind.is_block_device() => Ok(()),
        ("DirectoryOrCreate" | "Directory", _) => Err(format!("hostPath type check failed: {shown} is not a directory")),
        ("FileOrCreate" | "File", _) => Err(format!("hostPath type check failed: {shown} is not a file")),
        ("Socket", _) => Err(format!("hostPath type check failed: {shown} is not a socket file")),
        ("CharDevice", _) => Err(format!("hostPath type check failed: {shown} is not a character device")),
        ("BlockDevice", _) => Err(format!("hostPath type check failed: {shown} is not a block device")),
        (other, _) => Err(format!("unknown hostPath type {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_and_made() {
        let dir = tempfile::tempdir().unwrap();
        let (made, file) = (dir.path().join("a/b"), dir.path().join("f"));
        check(&made, "DirectoryOrCreate").unwrap();
        check(&made, "Directory").unwrap();
        check(&file, "FileOrCreate").unwrap();
        check(&file, "File").unwrap();
        check(Path::new("/dev/null"), "CharDevice").unwrap();
        assert!(check(&made, "File").unwrap_err().contains("is not a file"));
        assert!(check(&dir.path().join("none"), "Directory").unwrap_err().contains("is not a directory"));
        assert!(check(&file, "Sokcet").is_err());
    }
}
