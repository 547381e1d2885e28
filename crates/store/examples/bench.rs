//! Figures of the store against a real etcd: `cargo run --release -p store --example bench [members]`.
//!
//! Every figure stands beside what it is to be compared with. etcd keeps its data under `$TMPDIR`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use store::testing::EtcdCluster;
use store::wire::put_bytes;
use store::{
    Collection, Config, Encoding, FieldLayout, IndexKey, KindLayout, ListOptions, ReadAt, Selection, Store, Watch, WatchStart,
};
use tokio_util::sync::CancellationToken;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const PODS: usize = 5_000;
const AT_ONCE: usize = 32;
const WATCHERS: usize = 100;
const UPDATES: usize = 1_000;

/// Counts what is allocated, so that memory can be told without guessing what the allocator keeps.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), BoxError> {
    let members = std::env::args().nth(1).map_or(Ok(3), |text| text.parse())?;
    let cluster = EtcdCluster::start(members).await?;
    println!("{members} etcd members, pods of {} bytes", pod("pod-1", 0).len());
    let stop = CancellationToken::new();
    let store = start(cluster.config(), &stop).await?;
    let pods = store.collection("pods").ok_or("no pods")?;

    creates(&pods, &cluster.config()).await?;
    memory(cluster.config()).await?;
    list(&pods).await?;
    for stalled in [false, true] {
        watch(&pods, stalled).await?;
    }
    node_watches(&pods).await?;
    stop.cancel();
    Ok(())
}

async fn start(config: Config, stop: &CancellationToken) -> Result<Store, BoxError> {
    let layout = KindLayout {
        name: Cow::Borrowed("pods"),
        api_version: Cow::Borrowed("v1"),
        kind: Cow::Borrowed("Pod"),
        prefix: Cow::Borrowed("/registry/pods/"),
        namespaced: true,
        ttl: None,
        encoding: Encoding::Protobuf,
        fields: vec![FieldLayout::text("spec.nodeName", &[2, 10]).indexed(), FieldLayout::text("status.phase", &[3, 1])],
    };
    let (store, runner) = Store::new(config, vec![layout])?;
    tokio::spawn(runner.run(stop.clone()));
    store.ready().await;
    Ok(store)
}

/// Creations, and the same number of bare puts of the same size, turn about.
async fn creates(pods: &Collection, config: &Config) -> Result<(), BoxError> {
    let bare_client = bare(config).await?.kv_client();

    let (mut bare, mut ours) = (Duration::ZERO, Duration::ZERO);
    for round in 0..5 {
        let numbers = round * PODS / 5..(round + 1) * PODS / 5;
        let began = Instant::now();
        let put = async |i: usize| {
            let key = format!("/bare/pods/default/pod-{i}");
            let value = pod(&format!("pod-{i}"), i);
            bare_client.clone().put(key, value, None).await.map(drop)
        };
        at_once(numbers.clone(), put).await?;
        bare += began.elapsed();
        let began = Instant::now();
        let create = async |i: usize| {
            let name = format!("pod-{i}");
            pods.create("default", &name, &pod(&name, i)).await.map(drop)
        };
        at_once(numbers, create).await?;
        ours += began.elapsed();
    }
    let rate = |took: Duration| PODS as f64 / took.as_secs_f64();
    println!(
        "creates, {AT_ONCE} at a time: {:.0}/s, bare puts {:.0}/s: {:.0} % (wanted: 40 %, upstream: 14 %)",
        rate(ours),
        rate(bare),
        100.0 * rate(ours) / rate(bare)
    );
    Ok(())
}

/// etcd's plain client, over all members.
async fn bare(config: &Config) -> Result<etcd_client::Client, BoxError> {
    let files = config.tls.as_ref().ok_or("no certificates")?;
    let tls = etcd_client::TlsOptions::new()
        .ca_certificate(etcd_client::Certificate::from_pem(std::fs::read(&files.ca)?))
        .identity(etcd_client::Identity::from_pem(std::fs::read(&files.cert)?, std::fs::read(&files.key)?));
    let options = etcd_client::ConnectOptions::new().with_tls(tls);
    Ok(etcd_client::Client::connect(&config.endpoints, Some(options)).await?)
}

/// Runs a request for each number, some at a time.
async fn at_once<E>(numbers: impl Iterator<Item = usize>, request: impl AsyncFn(usize) -> Result<(), E>) -> Result<(), E> {
    let requests = stream::iter(numbers.map(|i| request(i))).buffer_unordered(AT_ONCE);
    requests.fold(Ok(()), |all, one| async { all.and(one) }).await
}

/// What a second cache of the same objects takes.
async fn memory(mut config: Config) -> Result<(), BoxError> {
    let stop = CancellationToken::new();
    config.replay = 0;
    let before = ALLOCATED.load(Ordering::Relaxed);
    let store = start(config, &stop).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let idle = ALLOCATED.load(Ordering::Relaxed) - before;
    let pods = store.collection("pods").ok_or("no pods")?;
    let list = pods.list(&Selection::all(), ListOptions { at: ReadAt::Any, ..Default::default() }).await?;
    // Handing an object out makes its bytes shared, which costs a little once.
    let objects: Vec<_> = list.items.iter().map(|entry| entry.object()).collect();
    let encoded: usize = objects.iter().map(|object| object.len()).sum();
    drop((objects, list));
    let used = ALLOCATED.load(Ordering::Relaxed) - before;
    println!(
        "memory of {PODS} pods: {:.1} MiB, {:.1} MiB once listed, encoded {:.1} MiB: {:.2}, {:.2} (wanted: 1.3, upstream: 5.2)",
        mebibytes(idle),
        mebibytes(used),
        mebibytes(encoded),
        idle as f64 / encoded as f64,
        used as f64 / encoded as f64,
    );
    stop.cancel();
    Ok(())
}

fn mebibytes(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Lists everything and copies it out, as a front end does.
async fn list(pods: &Collection) -> Result<(), BoxError> {
    let (mut bytes, mut out, began) = (0, Vec::new(), Instant::now());
    for _ in 0..50 {
        let list = pods.list(&Selection::all(), ListOptions::default()).await?;
        out.clear();
        list.items.iter().for_each(|entry| out.extend_from_slice(&entry.object()));
        bytes += out.len();
    }
    let rate = bytes as f64 / began.elapsed().as_secs_f64() / 1e6;
    println!("consistent lists of {PODS} pods: {rate:.0} MB/s (wanted over gRPC: 300)");
    let (mut selected, began) = (0, Instant::now());
    for node in 0..1_000 {
        let index = IndexKey::Field { field: 0, value: format!("node-{node}") };
        let options = ListOptions { at: ReadAt::Any, ..Default::default() };
        selected += pods.list(&Selection::all().with_index(index), options).await?.items.len();
    }
    println!("lists of one node's pods: {:.1} µs each, {selected} pods", began.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

/// Watchers of everything while objects change; one of them may not read at all.
async fn watch(pods: &Collection, stalled: bool) -> Result<(), BoxError> {
    let start = WatchStart::After(pods.store().revision());
    let _stalled: Option<Watch> = if stalled { Some(pods.watch(Selection::all(), start).await?) } else { None };
    let began = Instant::now();
    let mut readers = Vec::new();
    for _ in 0..WATCHERS {
        let mut watch = pods.watch(Selection::all(), start).await?;
        readers.push(tokio::spawn(async move {
            let (mut seen, mut bytes) = (Vec::with_capacity(UPDATES), 0);
            while seen.len() < UPDATES {
                let batch = watch.next().await?;
                let now = began.elapsed();
                bytes += batch.events.iter().map(|event| event.entry.object().len()).sum::<usize>();
                seen.extend(batch.events.iter().map(|event| (event.entry.revision(), now)));
            }
            Ok::<_, store::Error>((seen, bytes))
        }));
    }
    let update = async |i: usize| {
        let name = format!("pod-{i}");
        let at = pods.get("default", &name, ReadAt::Any).await?.revision();
        pods.update("default", &name, at, &pod(&name, i + 1)).await.map(drop)
    };
    at_once(0..UPDATES, update).await?;
    let wrote = began.elapsed();
    let (mut all, mut first) = (Vec::new(), std::collections::HashMap::new());
    for reader in readers {
        for (revision, at) in reader.await??.0 {
            all.push((revision, at));
            let earliest = first.entry(revision).or_insert(at);
            *earliest = (*earliest).min(at);
        }
    }
    let took = began.elapsed();
    let mut lags: Vec<_> = all.iter().map(|(revision, at)| *at - first[revision]).collect();
    lags.sort_unstable();
    println!(
        "{WATCHERS} watchers × {UPDATES} updates{}: {:.0} deliveries/s (wanted: 60,000, upstream: 11,700), updates alone took {:.0} %, p99 behind the first watcher {:?}",
        if stalled { ", one stalled" } else { "" },
        (WATCHERS * UPDATES) as f64 / took.as_secs_f64(),
        100.0 * wrote.as_secs_f64() / took.as_secs_f64(),
        lags[lags.len() * 99 / 100]
    );
    Ok(())
}

/// A thousand watchers of one node's pods each, while every pod changes once.
async fn node_watches(pods: &Collection) -> Result<(), BoxError> {
    let start = WatchStart::After(pods.store().revision());
    let seen = Arc::<AtomicUsize>::default();
    for node in 0..1_000 {
        let index = IndexKey::Field { field: 0, value: format!("node-{node}") };
        let mut watch = pods.watch(Selection::all().with_index(index), start).await?;
        let seen = seen.clone();
        tokio::spawn(async move {
            while let Ok(batch) = watch.next().await {
                seen.fetch_add(batch.events.len(), Ordering::Relaxed);
            }
        });
    }
    let measure = async |what: &str| -> Result<(), BoxError> {
        let (began, busy) = (Instant::now(), cpu()?);
        let update = async |i: usize| {
            let name = format!("pod-{i}");
            let at = pods.get("default", &name, ReadAt::Latest).await?.revision();
            pods.update("default", &name, at, &pod(&name, i)).await.map(drop)
        };
        at_once(0..PODS, update).await?;
        let rate = PODS as f64 / began.elapsed().as_secs_f64();
        println!("{what}: {rate:.0} updates/s, {:.0} µs of CPU each", (cpu()? - busy) * 1e6 / PODS as f64);
        Ok(())
    };
    measure("consistent read and update beside 1,000 node watchers").await?;
    println!("the node watchers were told {} changes", seen.load(Ordering::Relaxed));
    Ok(())
}

/// Seconds of CPU this process has used.
fn cpu() -> Result<f64, BoxError> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(')').ok_or("no name")?.1;
    let ticks: Vec<f64> = after_name.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// A pod as a replication controller's pod looks once it runs, some 1.4 KB.
fn pod(name: &str, i: usize) -> Vec<u8> {
    let mut metadata = Vec::new();
    put_bytes(&mut metadata, 1, name.as_bytes());
    put_bytes(&mut metadata, 3, b"default");
    put_bytes(&mut metadata, 5, format!("8d9f2b9c-6f5e-4c3b-9d8a-{i:012}").as_bytes());
    for (key, value) in [("app", "frontend"), ("tier", "web"), ("pod-template-hash", "6d4f8b7c9")] {
        let mut label = Vec::new();
        put_bytes(&mut label, 1, key.as_bytes());
        put_bytes(&mut label, 2, value.as_bytes());
        put_bytes(&mut metadata, 11, &label);
    }
    let mut owner = Vec::new();
    put_bytes(&mut owner, 1, b"ReplicationController");
    put_bytes(&mut owner, 3, b"frontend");
    put_bytes(&mut owner, 4, b"0b7c1f1e-3f4e-4f1e-8a54-4b5d0f6a7e11");
    put_bytes(&mut owner, 5, b"v1");
    put_bytes(&mut metadata, 13, &owner);
    let (mut spec, mut status, mut object) = (Vec::new(), Vec::new(), Vec::new());
    put_bytes(&mut spec, 2, &[b's'; 500]);
    put_bytes(&mut spec, 10, format!("node-{}", i % 1_000).as_bytes());
    put_bytes(&mut status, 1, b"Running");
    put_bytes(&mut status, 2, &[b'c'; 450]);
    put_bytes(&mut object, 1, &metadata);
    put_bytes(&mut object, 2, &spec);
    put_bytes(&mut object, 3, &status);
    object
}
