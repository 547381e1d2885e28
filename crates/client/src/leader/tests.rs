use api::core::v1::ConfigMap;

use super::*;
use crate::testing::MemoryServer;

fn election(identity: &str) -> LeaderElection {
    LeaderElection { identity: identity.into(), ..LeaderElection::new("l") }
}

fn lease(server: &MemoryServer) -> LeaseSpec {
    server.find::<Lease>("kube-system", "l").unwrap().spec().clone()
}

async fn write(client: &Client, name: &str) -> Result<ConfigMap, Error> {
    let mut object = ConfigMap::default();
    object.metadata_mut().name = name.into();
    client.namespaced::<ConfigMap>("d").create(&object).await
}

#[tokio::test(start_paused = true)]
async fn a_second_candidate_waits_until_the_lease_has_run_out() {
    let (server, shutdown) = (MemoryServer::new(), Shutdown::new());
    let client = server.client();
    let first = election("a").acquire(&client, &shutdown).await.unwrap();
    let begun = Instant::now();
    let second = election("b").acquire(&client, &shutdown).await.unwrap();
    // As long as the lease lasts from when it was first looked at, and not until some later round.
    assert!((15..=16).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(lease(&server).holder_identity.as_deref(), Some("b"));
    assert!(matches!(write(&first.client(), "x").await, Err(Error::NotLeader { .. })));
    write(&second.client(), "y").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_renews_stays() {
    let (server, shutdown) = (MemoryServer::new(), Shutdown::new());
    let client = server.client();
    let first = election("a").acquire(&client, &shutdown).await.unwrap();
    let leading = first.client();
    let keep = tokio::spawn(first.keep(shutdown.clone()));
    let second = election("b");
    assert!(tokio::time::timeout(Duration::from_secs(100), second.acquire(&client, &shutdown)).await.is_err());
    write(&leading, "x").await.unwrap();
    shutdown.start();
    keep.await.unwrap().unwrap();
    assert_eq!(lease(&server).holder_identity, None);
    // Released, so a successor need not wait.
    let begun = Instant::now();
    election("c").acquire(&client, &Shutdown::new()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(lease(&server).lease_transitions, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_paused_leader_is_refused_by_the_server() {
    let (server, shutdown) = (MemoryServer::new(), Shutdown::new());
    let client = server.client();
    let first = election("a").acquire(&client, &shutdown).await.unwrap();
    let leading = first.client();
    // Another process takes the lease; to the first one no time has passed, as after a pause of the machine.
    let mut stored: Lease = server.find("kube-system", "l").unwrap();
    stored.spec_mut().holder_identity = Some("b".into());
    stored.spec_mut().lease_transitions = Some(1);
    server.put(stored);
    assert!(write(&leading, "x").await.unwrap_err().is_conflict());
    let error = first.keep(shutdown).await.unwrap_err();
    assert!(matches!(error, LeaderError::Lost { source: None, .. }), "{error}");
    assert!(matches!(write(&leading, "x").await, Err(Error::NotLeader { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_stops_before_its_lease_runs_out() {
    let (server, shutdown) = (MemoryServer::new(), Shutdown::new());
    let client = server.client();
    let first = election("a").acquire(&client, &shutdown).await.unwrap();
    let begun = Instant::now();
    for _ in 0..1000 {
        server.fail_next("update", "leases", api::StatusError::unavailable("away"));
    }
    let error = first.keep(shutdown).await.unwrap_err();
    assert!(matches!(error, LeaderError::Lost { source: Some(_), .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_a_leader_has_under_way_is_finished_before_it_gives_up_the_lease() {
    let (server, kit) = (MemoryServer::new(), Kit::new());
    let leadership = election("a").acquire(&server.client(), &kit.shutdown).await.unwrap();
    let work = |leading: Client, work: Kit| {
        let shutdown = work.shutdown.clone();
        work.tasks.spawn_infallible("work", async move {
            shutdown.started().await;
            // Longer than the lease lasts.
            tokio::time::sleep(Duration::from_secs(20)).await;
            write(&leading, "late").await.unwrap();
        });
    };
    let leads = tokio::spawn({
        let kit = kit.clone();
        async move { leadership.lead(&kit, work).await }
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    kit.shutdown.start();
    leads.await.unwrap().unwrap();
    assert!(server.find::<ConfigMap>("d", "late").is_some());
    assert_eq!(lease(&server).holder_identity, None);
}

#[tokio::test(start_paused = true)]
async fn a_dead_task_of_a_leader_ends_its_leading() {
    let (server, kit) = (MemoryServer::new(), Kit::new());
    let leadership = election("a").acquire(&server.client(), &kit.shutdown).await.unwrap();
    let outcome = leadership.lead(&kit, |_, work| work.tasks.spawn_infallible("work", async {})).await;
    assert_eq!(outcome.unwrap_err().to_string(), "critical task `work` ended");
}

#[test]
fn an_identity_begins_with_the_hosts_name() {
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    assert!(!host.is_empty() && election("").name == "l");
    assert!(LeaderElection::new("l").identity.starts_with(&format!("{host}_")));
}

#[tokio::test(start_paused = true)]
async fn who_leads_is_reported() {
    let (server, kit) = (MemoryServer::new(), Kit::new());
    let client = server.client();
    let reported = || {
        let text = kit.metrics.encode().unwrap();
        text.lines().find(|line| line.starts_with("leader_election_master_status{name=\"l\"}")).map(str::to_owned).unwrap()
    };
    let candidate = election("a").reported(&kit.metrics);
    assert!(reported().ends_with(" 0"));
    let leadership = candidate.acquire(&client, &kit.shutdown).await.unwrap();
    let (led, lost) = (Shutdown::new(), kit.clone());
    let begins = led.clone();
    let leading = tokio::spawn(async move { leadership.lead(&lost, |_, _| begins.start()).await });
    led.started().await;
    assert!(reported().ends_with(" 1"));
    let mut taken: Lease = server.find("kube-system", "l").unwrap();
    taken.spec_mut().holder_identity = Some("b".to_owned());
    server.put(taken);
    assert!(matches!(leading.await.unwrap(), Err(LeaderError::Lost { .. })));
    assert!(reported().ends_with(" 0"));
}
