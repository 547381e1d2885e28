//! What `deploy/` ships is what the daemons take.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by unwrapping, in their helpers too"
)]

use tests::{Cluster, Daemon, command, topology};

#[test]
fn every_example_configuration_names_flags_that_exist() {
    let cluster = Cluster::for_tests().unwrap();
    let ours = Daemon::ALL.into_iter().filter(|daemon| daemon.admin_port().is_some());
    for daemon in ours {
        let config = topology::repository().join(format!("deploy/config/{daemon}.yaml"));
        let program = cluster.bin(daemon.name()).display().to_string();
        // The file is read before help is given, and an unknown key in it is an error.
        let help = command::run(&program, ["--config", &config.display().to_string(), "--help"]).unwrap();
        assert!(help.contains("--admin-address"), "{daemon}: {help}");
    }
}
