//! Work that goes on while a test breaks things, with accounts of it: which writes were acknowledged, what watchers were told, which requests
//! through a Service got no answer. At the end the accounts must agree with each other and with what is stored.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow, bail, ensure};
use api::{core::v1::ConfigMap, meta::v1::DeleteOptions};
use client::{Api, Change, Client, ListParams, WatchParams};
use futures::StreamExt;
use serde_json::json;
use tokio::{task::JoinHandle, time};

use crate::{
    http,
    kube::Namespace,
    topology::{Cluster, Daemon, Host},
};

/// Writers at once.
const WRITERS: usize = 4;
/// Guarded updates of each object.
const UPDATES: u32 = 4;
/// How long one request may take before its writer asks again.
const REQUEST: Duration = Duration::from_secs(5);
/// How long a write may be refused in all.
const REFUSED: Duration = Duration::from_secs(60);
/// How long a request through a Service may take.
const ANSWER: Duration = Duration::from_secs(5);
/// The object whose creation ends a watcher's account.
const END: &str = "end";

/// What a load did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Acknowledged writes.
    pub writes: usize,
    /// Writes that were not acknowledged at first and done again.
    pub repeated: usize,
    /// Changes that each watcher was told of.
    pub changes: usize,
    /// How often a watcher was told to list again.
    pub relists: usize,
    /// Answers through the Service.
    pub answers: usize,
}

/// A change as a watcher was told of it: the object's name and number, nothing for a deletion, by revision.
type Told = BTreeMap<i64, (String, Option<u32>)>;

/// One watcher's account.
#[derive(Debug)]
struct Watcher {
    of: String,
    told: Told,
    /// Ranges of revisions, first excluded, last included, that it did not see since it was told to list again.
    gaps: Vec<(i64, i64)>,
}

/// What a writer knows: acknowledged revisions with what they wrote, and what must be stored at the end.
#[derive(Debug, Default)]
struct Written {
    acknowledged: Told,
    stored: BTreeMap<String, Option<u32>>,
    repeated: usize,
}

/// Runs `test` under load in a namespace: objects are created, updated and deleted, watched through each API server, and every address is
/// fetched from its host (from the machine if that is `None`) twenty times a second. Then checks that
///
/// * every acknowledged write is there, and nothing else;
/// * every watcher was told of every change once and in order, except where it was told to list again;
/// * every request through the Service was answered.
///
/// # Errors
/// When that is not so.
pub fn around(
    cluster: &Cluster,
    namespace: &Namespace<'_>,
    addresses: &[(Option<Host>, String)],
    test: impl FnOnce(),
) -> anyhow::Result<Account> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let stop = Stop(Arc::default());
    let all = runtime.block_on(async { anyhow::Ok(cluster.client()?.namespaced::<ConfigMap>(&namespace.name)) })?;
    let start = runtime.block_on(all.list(&ListParams::default()))?.metadata.resource_version.parse()?;
    let mut watchers = vec![runtime.spawn(watch("any API server".into(), all.clone(), start))];
    for host in cluster.hosts_of(Daemon::Apiserver) {
        let client = runtime.block_on(async { cluster.client_to(&host) })?;
        watchers.push(runtime.spawn(watch(host.name.clone(), client.namespaced(&namespace.name), start)));
    }
    let mut writers = Vec::new();
    for number in 0..WRITERS {
        let client: Client = runtime.block_on(async { cluster.client() })?;
        writers.push(runtime.spawn(write(number, client.namespaced(&namespace.name), stop.0.clone())));
    }
    let (answers, missed) = fetch_during(addresses, &stop, test);
    let written = runtime.block_on(join(writers))?;
    let end = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": END } });
    let watched = runtime.block_on(async {
        persist(|| all.create_json(&end)).await?;
        time::timeout(REFUSED, join(watchers)).await.context("a watcher does not see the last object")?
    })?;
    ensure!(missed.is_empty(), "{} of {} requests through the Service failed: {missed:#?}", missed.len(), missed.len() + answers);
    let everything = ListParams::default();
    let stored = runtime.block_on(persist(|| all.list(&everything)))?;
    check_stored(&written, &stored.items)?;
    check_watched(&written, &watched)?;
    Ok(Account {
        writes: written.iter().map(|one| one.acknowledged.len()).sum(),
        repeated: written.iter().map(|one| one.repeated).sum(),
        changes: watched.iter().map(|one| one.told.len()).max().unwrap_or_default(),
        relists: watched.iter().map(|one| one.gaps.len()).sum(),
        answers,
    })
}

/// Ends the writers and fetchers when it is dropped, by a failing test too.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

async fn join<T>(tasks: Vec<JoinHandle<anyhow::Result<T>>>) -> anyhow::Result<Vec<T>> {
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await??);
    }
    Ok(results)
}

/// Fetches while the test runs. Returns the number of answers, and what went wrong with the others.
fn fetch_during(addresses: &[(Option<Host>, String)], stop: &Stop, test: impl FnOnce()) -> (usize, Vec<String>) {
    let answers = AtomicUsize::default();
    let fetch = |from: &Option<Host>, address: &String| {
        let mut missed = Vec::new();
        while !stop.0.load(Ordering::SeqCst) {
            let answer = match from {
                Some(host) => http::get_within(host, address.clone(), "/", ANSWER),
                None => http::get(address, "/", ANSWER),
            };
            match answer {
                Ok(answer) if answer.status == 200 => drop(answers.fetch_add(1, Ordering::SeqCst)),
                other => missed.push(format!("{}: {other:?}", jiff::Timestamp::now())),
            }
            thread::sleep(Duration::from_millis(50));
        }
        missed
    };
    thread::scope(|scope| {
        let fetchers: Vec<_> = addresses.iter().map(|(from, address)| scope.spawn(move || fetch(from, address))).collect();
        let end = Stop(stop.0.clone());
        test();
        drop(end);
        let missed = fetchers.into_iter().flat_map(|one| one.join().unwrap_or_else(|_| vec!["a fetcher panicked".into()]));
        (answers.load(Ordering::SeqCst), missed.collect())
    })
}

/// Repeats a request that needs no care when it is done twice, until it is answered.
async fn persist<T, F: Future<Output = client::Result<T>>>(mut request: impl FnMut() -> F) -> anyhow::Result<T> {
    let deadline = time::Instant::now() + REFUSED;
    loop {
        let error = match time::timeout(REQUEST, request()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) if error.is_not_found() || error.is_already_exists() => return Err(error.into()),
            Ok(Err(error)) => anyhow!(error),
            Err(_) => anyhow!("no answer in {} s", REQUEST.as_secs()),
        };
        if time::Instant::now() > deadline {
            return Err(error.context(format!("refused for {} s", REFUSED.as_secs())));
        }
        time::sleep(Duration::from_millis(100)).await;
    }
}

// --- writing ---

fn number_of(object: &ConfigMap) -> anyhow::Result<u32> {
    Ok(object.data.get("n").context("an object without a number")?.parse()?)
}

fn revision_of(object: &ConfigMap) -> anyhow::Result<i64> {
    Ok(object.metadata.as_ref().context("an object without metadata")?.resource_version.parse()?)
}

/// Writes one object after the other. Names are used once and updates are guarded, so that a write which was given up and arrives late
/// changes nothing.
async fn write(writer: usize, maps: Api<ConfigMap>, stop: Arc<AtomicBool>) -> anyhow::Result<Written> {
    let mut written = Written::default();
    for generation in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let name = format!("load-{writer}-{generation}");
        written.live(&maps, &name, generation % 2 == 1).await.with_context(|| name)?;
        time::sleep(Duration::from_millis(20)).await;
    }
    Ok(written)
}

impl Written {
    /// One object's life.
    async fn live(&mut self, maps: &Api<ConfigMap>, name: &str, delete: bool) -> anyhow::Result<()> {
        let first = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "n": "0" } });
        let mut object = match time::timeout(REQUEST, maps.create_json(&first)).await {
            Ok(Ok(object)) => {
                self.acknowledged.insert(revision_of(&object)?, (name.to_owned(), Some(0)));
                object
            }
            _ => {
                self.repeated += 1;
                match persist(|| maps.create_json(&first)).await {
                    Ok(object) => object,
                    // It was done the first time.
                    Err(_) => persist(|| maps.get(name)).await?,
                }
            }
        };
        for number in 1..=UPDATES {
            object = self.update(maps, name, object, number).await?;
        }
        self.stored.insert(name.to_owned(), Some(UPDATES));
        if delete {
            let options = DeleteOptions::default();
            match persist(|| maps.delete(name, &options)).await {
                Ok(_) => {}
                Err(error) if error.downcast_ref::<client::Error>().is_some_and(client::Error::is_not_found) => {
                    self.repeated += 1
                }
                Err(error) => return Err(error),
            }
            self.stored.insert(name.to_owned(), None);
        }
        Ok(())
    }

    async fn update(
        &mut self,
        maps: &Api<ConfigMap>,
        name: &str,
        mut object: ConfigMap,
        number: u32,
    ) -> anyhow::Result<ConfigMap> {
        let deadline = time::Instant::now() + REFUSED;
        loop {
            object.data.insert("n".into(), number.to_string());
            let error = match time::timeout(REQUEST, maps.update(&object)).await {
                Ok(Ok(object)) => {
                    self.acknowledged.insert(revision_of(&object)?, (name.to_owned(), Some(number)));
                    return Ok(object);
                }
                Ok(Err(error)) => anyhow!(error),
                Err(_) => anyhow!("no answer"),
            };
            ensure!(time::Instant::now() < deadline, "update {number}: {error:#}");
            self.repeated += 1;
            object =
                persist(|| maps.get(name)).await.with_context(|| format!("after update {number}, which failed: {error:#}"))?;
            match number_of(&object)? {
                there if there == number => return Ok(object),
                there if there + 1 == number => {}
                there => bail!("acknowledged but lost: it was at {}, now it is at {there}", number - 1),
            }
        }
    }
}

fn check_stored(written: &[Written], there: &[ConfigMap]) -> anyhow::Result<()> {
    let name = |object: &ConfigMap| object.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
    let there: BTreeMap<_, _> =
        there.iter().map(|object| (name(object), number_of(object).ok())).filter(|(name, _)| name.starts_with("load-")).collect();
    let wanted: BTreeMap<_, _> = written
        .iter()
        .flat_map(|one| one.stored.iter().filter(|(_, number)| number.is_some()).map(|(name, number)| (name.clone(), *number)))
        .collect();
    let differ = |one: &BTreeMap<String, Option<u32>>, other: &BTreeMap<String, Option<u32>>| -> Vec<String> {
        one.iter().filter(|(name, number)| other.get(*name) != Some(number)).map(|(name, _)| name.clone()).collect()
    };
    let (lost, strange) = (differ(&wanted, &there), differ(&there, &wanted));
    ensure!(lost.is_empty() && strange.is_empty(), "acknowledged but lost: {lost:?}; there but never acknowledged: {strange:?}");
    Ok(())
}

// --- watching ---

/// Watches until [`END`] is created, resuming where it was after each break.
async fn watch(of: String, maps: Api<ConfigMap>, start: i64) -> anyhow::Result<Watcher> {
    let mut watcher = Watcher { of, told: Told::new(), gaps: Vec::new() };
    let mut at = start;
    loop {
        let params = WatchParams { resource_version: at.to_string(), ..WatchParams::default() };
        let stream = match time::timeout(REQUEST, maps.watch(&params)).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) if error.is_expired() => {
                watcher.relist(&maps, &mut at).await?;
                None
            }
            _ => None,
        };
        if let Some(stream) = stream
            && watcher.follow(stream, &mut at).await?
        {
            return Ok(watcher);
        }
        time::sleep(Duration::from_millis(100)).await;
    }
}

impl Watcher {
    /// Reads a stream to its end. Says whether [`END`] was seen.
    async fn follow(&mut self, mut stream: client::WatchStream<ConfigMap>, at: &mut i64) -> anyhow::Result<bool> {
        while let Some(event) = stream.next().await {
            // Whatever broke it: the next attempt says so, or goes on.
            let Ok(event) = event else { return Ok(false) };
            let (object, there) = match event.change {
                Change::Bookmark { .. } => {
                    *at = (*at).max(event.revision);
                    continue;
                }
                Change::Added(object) | Change::Modified(object) => (object, true),
                Change::Deleted(object) => (object, false),
            };
            ensure!(event.revision > *at, "{}: told of revision {} after {at}", self.of, event.revision);
            *at = event.revision;
            let name = object.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
            if name == END {
                return Ok(true);
            }
            let number = if there { Some(number_of(&object).with_context(|| name.clone())?) } else { None };
            self.told.insert(event.revision, (name, number));
        }
        Ok(false)
    }

    /// What came between is not known; everything after it is.
    async fn relist(&mut self, maps: &Api<ConfigMap>, at: &mut i64) -> anyhow::Result<()> {
        let everything = ListParams::default();
        let list = persist(|| maps.list(&everything)).await?;
        let now = list.metadata.resource_version.parse()?;
        self.gaps.push((*at, now));
        *at = now;
        Ok(())
    }

    fn missed(&self, revision: i64) -> bool {
        self.gaps.iter().any(|(after, until)| revision > *after && revision <= *until)
    }
}

fn check_watched(written: &[Written], watched: &[Watcher]) -> anyhow::Result<()> {
    let acknowledged: Told = written.iter().flat_map(|one| one.acknowledged.clone()).collect();
    // All that anybody was told of. Deletions have no acknowledged revision.
    let everything: BTreeSet<_> = watched.iter().flat_map(|one| one.told.iter()).chain(&acknowledged).collect();
    for watcher in watched {
        let wanted = everything.iter().filter(|(revision, _)| !watcher.missed(**revision));
        let lacking: Vec<_> = wanted.filter(|(revision, change)| watcher.told.get(*revision) != Some(change)).collect();
        ensure!(lacking.is_empty(), "the watcher of {} was not told of {lacking:?}; gaps: {:?}", watcher.of, watcher.gaps);
        // Each object's numbers in order, each once, then perhaps its end.
        let mut last: BTreeMap<&str, Option<u32>> = BTreeMap::new();
        for (revision, (name, number)) in &watcher.told {
            let before = last.insert(name, *number);
            let follows = match (before, number) {
                (None, Some(0)) => true,
                (Some(Some(before)), Some(number)) => before + 1 == *number,
                (Some(Some(_)), None) => true,
                _ => false,
            };
            ensure!(follows || !watcher.gaps.is_empty(), "{}: {name} was {before:?}, then {number:?} at {revision}", watcher.of);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(changes: &[(i64, Option<u32>)]) -> Told {
        changes.iter().map(|(revision, number)| (*revision, ("load-0-0".to_owned(), *number))).collect()
    }

    fn watcher(changes: &[(i64, Option<u32>)], gaps: &[(i64, i64)]) -> Watcher {
        Watcher { of: "cp-1".into(), told: told(changes), gaps: gaps.to_vec() }
    }

    const ALL: [(i64, Option<u32>); 4] = [(2, Some(0)), (3, Some(1)), (5, Some(2)), (9, None)];

    fn written() -> Written {
        // The change at 5 was done and not acknowledged; deletions never tell their revision.
        Written { acknowledged: told(&ALL[..2]), ..Written::default() }
    }

    #[test]
    fn watchers_that_were_told_of_everything_in_order_agree() {
        check_watched(&[written()], &[watcher(&ALL, &[]), watcher(&ALL, &[])]).unwrap();
        check_watched(&[written()], &[watcher(&ALL, &[]), watcher(&[ALL[0], ALL[3]], &[(2, 5)])]).unwrap();
    }

    #[test]
    fn a_change_that_one_watcher_lacks_is_found() {
        for lacking in 0..ALL.len() {
            let some: Vec<_> = ALL.iter().enumerate().filter(|(index, _)| *index != lacking).map(|(_, change)| *change).collect();
            check_watched(&[written()], &[watcher(&ALL, &[]), watcher(&some, &[])]).unwrap_err();
        }
        // An acknowledged one that all of them lack.
        check_watched(&[written()], &[watcher(&[ALL[0]], &[])]).unwrap_err();
        // A gap excuses only what is in it.
        check_watched(&[written()], &[watcher(&ALL, &[]), watcher(&[ALL[0], ALL[3]], &[(3, 5)])]).unwrap_err();
    }

    #[test]
    fn a_change_told_twice_or_out_of_order_is_found() {
        let twice = [(2, Some(0)), (3, Some(1)), (4, Some(1))];
        check_watched(&[Written::default()], &[watcher(&twice, &[])]).unwrap_err();
        let back = [(2, Some(0)), (3, Some(2))];
        check_watched(&[Written::default()], &[watcher(&back, &[])]).unwrap_err();
    }

    #[test]
    fn what_is_stored_is_what_was_acknowledged() {
        let object = |name: &str, number: u32| -> ConfigMap {
            let metadata = api::meta::v1::ObjectMeta { name: name.into(), ..Default::default() };
            ConfigMap { metadata: Some(metadata), data: [("n".to_owned(), number.to_string())].into(), ..Default::default() }
        };
        let stored = [("load-0-0".to_owned(), Some(4)), ("load-0-1".to_owned(), None)].into();
        let written = [Written { stored, ..Written::default() }];
        check_stored(&written, &[object("load-0-0", 4), object("kube-root-ca.crt", 0)]).unwrap();
        check_stored(&written, &[]).unwrap_err();
        check_stored(&written, &[object("load-0-0", 3)]).unwrap_err();
        check_stored(&written, &[object("load-0-0", 4), object("load-0-1", 4)]).unwrap_err();
    }
}
