//! The program in docs/api.md, as it stands there, with the packages it names.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by unwrapping, in their helpers too"
)]

use std::fs;

use tests::{
    Cluster, command,
    hosts::blocks,
    kube::Namespace,
    topology::{API_PORT, repository},
};

#[test]
fn a_python_program_needs_nothing_but_the_server() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "python").unwrap();
    let page = fs::read_to_string(repository().join("docs/api.md")).unwrap();
    let install = page.split('`').find(|words| words.starts_with("pip install ")).unwrap();
    let packages: Vec<_> = install.split_whitespace().skip(2).collect();
    assert!(packages.iter().all(|package| package.contains("==")), "not pinned: {packages:?}");

    // Kept between runs, one for each set of packages.
    let venv = repository().join("target/python").join(packages.join(","));
    let python = venv.join("bin/python").display().to_string();
    if !venv.join("ready").exists() {
        command::run("python3", ["-m", "venv", "--clear", &venv.display().to_string()]).unwrap();
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        command::run(&python, pip.iter().chain(&packages)).unwrap();
        fs::write(venv.join("ready"), "").unwrap();
    }

    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("api.py");
    fs::write(&program, blocks(&page, "## A program", "python").remove(0)).unwrap();
    let server = format!("{}:{API_PORT}", cluster.host_named("cp-1").unwrap().address);
    let (certificate, key, ca) = cluster.admin_files();
    let files = [&program, &ca, &certificate, &key].map(|path| path.display().to_string());
    let [program, ca, certificate, key] = &files;
    let output = command::run(&python, [program, &server, ca, certificate, key, &namespace.name]).unwrap();

    let lines: Vec<_> = output.lines().collect();
    let [version, listed, rest @ ..] = &lines[..] else { panic!("{output}") };
    assert!(version.starts_with("server v") && *listed == "listed 1", "{output}");
    let rest: Vec<_> = rest.iter().skip_while(|line| line.starts_with("phase ")).copied().collect();
    let [place, rest @ ..] = &rest[..] else { panic!("{output}") };
    assert!(place.starts_with("node node-") && place.contains(" address 10.244."), "{output}");
    assert_eq!(rest, ["log I run", "stdout two plus two is 4", "exit_code 3", "NOT_FOUND pods \"nobody\" not found"]);
    let left = namespace.list("pods", "app=from-python").unwrap();
    assert!(left.iter().all(|pod| !pod["metadata"]["deletionTimestamp"].is_null()), "{left:?}");
}
