//! Existing commands of `kctl` against a running cluster, as people used to kubectl meet them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by unwrapping, in their helpers too"
)]

use std::{
    io::Write as _,
    process::{Output, Stdio},
};

use tests::{Cluster, kube::Namespace};

/// Runs `kctl` in a namespace with this input, and returns its exit code, output and errors.
fn kctl(cluster: &Cluster, namespace: &Namespace<'_>, args: &[&str], input: &str) -> (i32, String, String) {
    let mut command = cluster.kctl_command();
    command.args(["-n", &namespace.name]).args(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // A command that has ended takes no more of it.
    let writing = std::thread::spawn(move || stdin.write_all(input.as_bytes()).is_ok());
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    writing.join().unwrap();
    (status.code().unwrap_or(-1), String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn run_shows_all_that_a_short_command_writes_once_and_ends_with_its_code() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "run").unwrap();
    for attempt in 0..20 {
        let name = format!("echo-{attempt}");
        let image = ["run", "-i", "--rm", &name, "--image=busybox:1.35", "--image-pull-policy=IfNotPresent"];
        let (code, output, errors) =
            kctl(&cluster, &namespace, &[&image[..], &["--restart=Never", "--", "echo", "hello"]].concat(), "");
        assert_eq!((code, output.as_str()), (0, "hello\n"), "{attempt}: {errors}");
    }
    let image = ["run", "-i", "--rm", "--quiet", "--image=busybox:1.35", "--image-pull-policy=IfNotPresent", "--restart=Never"];
    let run = |name: &str, command: &[&str], input: &str| {
        kctl(&cluster, &namespace, &[&image[..], &[name, "--"], command].concat(), input)
    };
    let (code, output, errors) = run("words", &["wc", "-w"], "one two three\n");
    assert_eq!((code, output.trim(), errors.as_str()), (0, "3", ""));
    let (code, output, errors) = run("both", &["sh", "-c", "echo out; echo err >&2"], "");
    assert_eq!((code, output.as_str(), errors.as_str()), (0, "out\n", "err\n"));
    let slowly = "for i in 1 2 3 4 5; do echo $i; sleep 0.2; done; exit 7";
    let (code, output, errors) = run("slowly", &["sh", "-c", slowly], "");
    assert_eq!((code, output.as_str()), (7, "1\n2\n3\n4\n5\n"), "{errors}");
    assert!(errors.contains("terminated (Error)"), "{errors}");
}

#[test]
fn unknown_fields_are_refused_told_or_dropped_as_asked() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "validate").unwrap();
    let map =
        |value: u32| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\ndta: {{}}\ndata: {{k: \"{value}\"}}\n");
    let run = |verb: &str, flag: &str, value: u32| kctl(&cluster, &namespace, &[verb, "-f", "-", flag], &map(value));
    for (value, verb) in (0..).step_by(2).zip(["create", "apply", "replace"]) {
        for flag in ["--validate", "--validate=true", "--validate=strict"] {
            let (code, _, errors) = run(verb, flag, value);
            assert!(code == 1 && errors.contains("unknown field \"dta\""), "{verb} {flag}: {errors}");
        }
        let (code, _, errors) = run(verb, "--validate=warn", value);
        assert!(code == 0 && errors.contains("Warning: unknown field \"dta\""), "{verb}: {errors}");
        if verb != "create" {
            for flag in ["--validate=ignore", "--validate=false"] {
                let (code, _, errors) = run(verb, flag, value + 1);
                assert!(code == 0 && !errors.contains("dta"), "{verb} {flag}: {errors}");
            }
        }
    }
    assert_eq!(namespace.kctl(&["get", "cm", "m", "-o", "jsonpath={.data}"]).unwrap().trim(), "{\"k\":\"5\"}");
}

#[test]
fn wait_takes_filters_without_braces_and_values_that_end_in_one() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "waiting").unwrap();
    namespace.apply(&tests::kube::busybox("w", "")).unwrap();
    namespace.wait_pod("w").unwrap();
    namespace.kctl(&["annotate", "pod", "w", "brace={a}"]).unwrap();
    let wait = |what: &str| kctl(&cluster, &namespace, &["wait", "pod", "w", what, "--timeout=5s"], "");
    for what in [
        "--for=jsonpath=.status.conditions[?(@.type==\"Ready\")].status=True",
        "--for=jsonpath={.metadata.annotations.brace}={a}",
        "--for=jsonpath={.status.podIP}",
    ] {
        let (code, output, errors) = wait(what);
        assert_eq!((code, output.as_str()), (0, "pod/w condition met\n"), "{what}: {errors}");
    }
    let (code, _, errors) = wait("--for=jsonpath={.spec.containers[7].name}=x");
    assert!(code == 1 && errors.contains("array index out of bounds: index 7, length 1"), "{errors}");
}

#[test]
fn calls_are_told_of_without_credentials() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "verbose").unwrap();
    let (code, _, errors) = kctl(&cluster, &namespace, &["get", "cm", "nothing", "-v=6"], "");
    assert!(code == 1 && errors.contains("/ferrokube.v1.Objects/Get NotFound in "), "{errors}");
    assert!(!errors.contains('\u{1b}'), "colours in what is no terminal: {errors:?}");
    let (code, token, errors) = kctl(&cluster, &namespace, &["create", "token", "default", "-v=10"], "");
    assert!(code == 0 && errors.contains("Response Body: ") && errors.contains("\"token\":\"<masked>\""), "{errors}");
    assert!(!errors.contains(token.trim()), "{errors}");
    let (code, _, errors) = kctl(&cluster, &namespace, &["get", "cm", "--token", token.trim(), "-v=10"], "");
    assert!(code == 1 && errors.contains("authorization: <masked>") && !errors.contains(token.trim()), "{errors}");
}

#[test]
fn the_leaders_are_shown() {
    let cluster = Cluster::for_tests().unwrap();
    let text = cluster.kctl(&["cluster-info"]).unwrap();
    for name in ["kube-scheduler", "kube-controller-manager"] {
        assert!(text.contains(&format!("The {name} that leads is ")), "{text}");
    }
}
