//! kctl's commands that need more than one object read or written: comparing, copying, plain paths, acting as somebody else.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by unwrapping, in their helpers too"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tests::{
    Cluster,
    kube::{self, Namespace},
};

/// What a command line prints, and its exit code.
fn run(namespace: &Namespace<'_>, cluster: &Cluster, args: &[&str]) -> (i32, String, String) {
    let mut command = cluster.kctl_command();
    let Output { status, stdout, stderr } = command.args(["-n", &namespace.name]).args(args).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn diff_says_what_apply_would_do() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "diff").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.yaml");
    let file = path.to_str().unwrap();
    fs::write(&path, kube::service("web", "web", "")).unwrap();
    let (code, text, _) = run(&namespace, &cluster, &["diff", "-f", file]);
    assert!(code == 1 && text.contains("+kind: Service\n") && text.contains("clusterIP"), "{code} {text}");
    namespace.kctl(&["apply", "-f", file]).unwrap();
    assert_eq!(run(&namespace, &cluster, &["diff", "-f", file]), (0, String::new(), String::new()));
    fs::write(&path, kube::service("web", "other", "")).unwrap();
    let (code, text, _) = run(&namespace, &cluster, &["diff", "-f", file]);
    assert!(code == 1 && text.contains("-    app: web\n+    app: other\n"), "{code} {text}");
    fs::write(&path, kube::service("web", "web", "").replace("port: 80,", "port: 99999,")).unwrap();
    let (code, _, errors) = run(&namespace, &cluster, &["diff", "-f", file]);
    assert!(code > 1 && errors.contains("99999"), "{code} {errors}");
}

#[test]
fn files_are_copied_into_a_container_and_out_of_it() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "copy").unwrap();
    namespace.apply(&kube::busybox("web", "")).unwrap();
    namespace.wait_pod("web").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (source, back) = (folder.path().join("site"), folder.path().join("back"));
    fs::create_dir_all(source.join("deep")).unwrap();
    let large: Vec<u8> = (0..3_000_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    fs::write(source.join("deep/large"), &large).unwrap();
    fs::write(source.join("index.html"), "hello").unwrap();
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    namespace.kctl(&["cp", &path(&source), "web:/srv"]).unwrap();
    // The folder was not there, so it is the copy; into one that is there the copy goes by its own name.
    assert_eq!(namespace.exec("web", "main", &["cat", "/srv/index.html"]).unwrap(), "hello");
    namespace.kctl(&["cp", &path(&source.join("index.html")), "web:/srv/deep", "-c", "main", "--no-preserve"]).unwrap();
    assert_eq!(namespace.exec("web", "main", &["cat", "/srv/deep/index.html"]).unwrap(), "hello");
    namespace.exec("web", "main", &["ln", "-s", "/etc/passwd", "/srv/link"]).unwrap();
    let (code, _, warnings) = run(&namespace, &cluster, &["cp", "web:/srv", &path(&back)]);
    assert!(code == 0 && warnings.contains("skipping symlink"), "{code} {warnings}");
    assert_eq!(fs::read(back.join("deep/large")).unwrap(), large);
    assert!(!back.join("link").exists());
    namespace.kctl(&["cp", &format!("{}/web:/srv/index.html", namespace.name), &path(&folder.path().join("one"))]).unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("one")).unwrap(), "hello");
    let (code, _, errors) = run(&namespace, &cluster, &["cp", "web:/nowhere", &path(&folder.path().join("two"))]);
    assert!(code != 0 && errors.contains("nowhere"), "{code} {errors}");
}

#[test]
fn a_kustomization_and_templates_work_on_a_cluster() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "kustomize").unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("pod.yaml"), kube::busybox("web", "envFrom: [{configMapRef: {name: settings}}]")).unwrap();
    let text = "resources: [pod.yaml]\nnamePrefix: my-\nconfigMapGenerator: [{name: settings, literals: [COLOUR=blue]}]\n";
    fs::write(folder.path().join("kustomization.yaml"), text).unwrap();
    let path = folder.path().to_str().unwrap();
    namespace.kctl(&["apply", "-k", path]).unwrap();
    namespace.wait_pod("my-web").unwrap();
    assert_eq!(namespace.exec("my-web", "main", &["sh", "-c", "echo $COLOUR"]).unwrap().trim(), "blue");
    let template = "{{range .items}}{{.metadata.name}} {{len .spec.containers}}{{end}}";
    assert_eq!(namespace.kctl(&["get", "pods", "-o", &format!("go-template={template}")]).unwrap(), "my-web 1");
    assert_eq!(namespace.kctl(&["set", "image", "pod/my-web", "main=other:1"]).unwrap(), "pod/my-web image updated\n");
    assert!(namespace.kctl(&["apply", "view-last-applied", "pod/my-web"]).unwrap().contains("image: busybox:"));
    namespace.kctl(&["delete", "-k", path]).unwrap();
}

#[test]
fn paths_of_the_http_api_are_answered_directly_and_through_a_proxy() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "raw").unwrap();
    for (path, kind) in [("/api/v1/nodes?limit=1", "NodeList"), ("/apis", "APIGroupList"), ("/api/v1", "APIResourceList")] {
        let value: Value = serde_json::from_str(&namespace.kctl(&["get", "--raw", path]).unwrap()).unwrap();
        assert_eq!(value["kind"], kind);
    }
    for path in ["/readyz", "/livez", "/healthz"] {
        assert_eq!(namespace.kctl(&["get", "--raw", path]).unwrap(), "ok");
    }
    let mut proxy = cluster.kctl_command().args(["proxy", "--port=0"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(proxy.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("Starting to serve on ").unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/default", namespace.name);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    proxy.kill().unwrap();
    proxy.wait().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\"ServiceAccount\""), "{answer}");
}

#[test]
fn requests_are_made_as_somebody_else() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "as").unwrap();
    let who = |args: &[&str]| {
        let text = namespace.kctl(&[&["auth", "whoami", "-o", "json"], args].concat()).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["status"]["userInfo"].clone()
    };
    let user = who(&["--as=ann", "--as-group=testers", "--as-group=others", "--as-uid=7", "--as-user-extra=scope=a"]);
    assert_eq!((&user["username"], &user["uid"], &user["extra"]["scope"][0]), (&"ann".into(), &"7".into(), &"a".into()));
    let groups = user["groups"].as_array().unwrap();
    assert!(["testers", "others", "system:authenticated"].iter().all(|group| groups.iter().any(|own| own == group)), "{user}");
    // What ann may not do, the administrator as ann may not do either.
    let (code, _, errors) = run(&namespace, &cluster, &["get", "secrets", "--as=ann"]);
    assert!(code == 1 && errors.contains("Forbidden") && errors.contains("ann"), "{code} {errors}");
    let (code, _, errors) = run(&namespace, &cluster, &["get", "pods", "--as-group=testers"]);
    assert!(code == 1 && errors.contains("without impersonating a user"), "{code} {errors}");
}

#[test]
fn a_plugin_is_run_with_what_is_left_of_the_command_line() {
    use std::os::unix::fs::PermissionsExt as _;
    let cluster = Cluster::for_tests().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kctl-greet");
    fs::write(&path, "#!/bin/sh\necho hello \"$@\"\nexit 7\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command: Command = cluster.kctl_command();
    let paths = std::env::join_paths([folder.path(), std::path::Path::new("/usr/bin"), std::path::Path::new("/bin")]).unwrap();
    let output = command.env("PATH", paths).args(["greet", "ann", "--loud"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(7), b"hello ann --loud\n".as_slice()));
}
