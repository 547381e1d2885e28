//! Pod addresses on disk: one file per address in use, named after it, holding the sandbox that has it.
//!
//! *Invariant:* an address file exists before its sandbox learns the address and is removed only after the sandbox is off the network; it says
//! `ready` only once the sandbox is connected, so a set-up cut short is done again and a whole one is never disturbed. The search goes round the range and remembers where it stopped, so that an address is used again as late as possible.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use ipnet::Ipv4Net;

use super::{Error, Result, range};

/// The file that holds the address given last.
const LAST: &str = "last";
/// Marks the address of a sandbox that is connected.
const READY: &str = "ready";

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    pod_uid: String,
    attempt: u32,
    ready: bool,
}

/// The addresses of one node.
pub(super) struct Ipam {
    dir: PathBuf,
    owners: BTreeMap<Ipv4Addr, Owner>,
    last: Option<Ipv4Addr>,
}

// === impl Ipam ===

impl Ipam {
    /// Reads what an earlier process left. Files that make no sense are ignored: they name no sandbox.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::file(dir))?;
        let mut owners = BTreeMap::new();
        for entry in fs::read_dir(dir).map_err(Error::file(dir))? {
            let path = entry.map_err(Error::file(dir))?.path();
            let Some(address) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
            let text = fs::read_to_string(&path).map_err(Error::file(&path))?;
            let mut words = text.split_whitespace();
            if let (Some(pod_uid), Some(Ok(attempt))) = (words.next(), words.next().map(str::parse)) {
                owners.insert(address, Owner { pod_uid: pod_uid.to_owned(), attempt, ready: words.next() == Some(READY) });
            }
        }
        let last = fs::read_to_string(dir.join(LAST)).ok().and_then(|text| text.trim().parse().ok());
        Ok(Self { dir: dir.to_owned(), owners, last })
    }

    /// The address of a connected sandbox.
    pub(super) fn get(&self, pod_uid: &str, attempt: u32) -> Option<Ipv4Addr> {
        self.find(pod_uid, attempt).filter(|(_, owner)| owner.ready).map(|(address, _)| address)
    }

    fn find(&self, pod_uid: &str, attempt: u32) -> Option<(Ipv4Addr, &Owner)> {
        let found = self.owners.iter().find(|(_, owner)| owner.pod_uid == pod_uid && owner.attempt == attempt);
        found.map(|(address, owner)| (*address, owner))
    }

    /// Notes that the sandbox with this address is connected.
    pub(super) fn set_ready(&mut self, address: Ipv4Addr) -> Result<()> {
        if let Some(owner) = self.owners.get_mut(&address) {
            write_atomically(&self.dir, &address.to_string(), &format!("{} {} {READY}\n", owner.pod_uid, owner.attempt))?;
            owner.ready = true;
        }
        Ok(())
    }

    /// The sandbox's address, a new one if it has none.
    pub(super) fn allocate(&mut self, pods: Ipv4Net, pod_uid: &str, attempt: u32) -> Result<Ipv4Addr> {
        if let Some(address) = self.find(pod_uid, attempt).map(|(address, _)| address).filter(|address| pods.contains(address)) {
            return Ok(address);
        }
        let count = range::size(pods);
        let first = self
            .last
            .filter(|last| pods.contains(last))
            .map_or(0, |last| last.to_bits().wrapping_sub(range::address(pods, 0).to_bits()) + 1);
        let address = (0..count)
            .map(|step| range::address(pods, (first + step) % count))
            .find(|address| !self.owners.contains_key(address))
            .ok_or(Error::Exhausted(pods))?;
        write_atomically(&self.dir, &address.to_string(), &format!("{pod_uid} {attempt}\n"))?;
        write_atomically(&self.dir, LAST, &format!("{address}\n"))?;
        self.last = Some(address);
        self.owners.insert(address, Owner { pod_uid: pod_uid.to_owned(), attempt, ready: false });
        Ok(address)
    }

    /// Gives up the pod's addresses, except that of one attempt.
    pub(super) fn release(&mut self, pod_uid: &str, keep: Option<u32>) -> Result<()> {
        self.release_where(|owner| owner.pod_uid == pod_uid && Some(owner.attempt) != keep)
    }

    /// Gives up the addresses of all pods but these.
    pub(super) fn retain(&mut self, live: &BTreeSet<String>) -> Result<()> {
        self.release_where(|owner| !live.contains(&owner.pod_uid))
    }

    fn release_where(&mut self, gone: impl Fn(&Owner) -> bool) -> Result<()> {
        let addresses: Vec<_> = self.owners.iter().filter(|(_, owner)| gone(owner)).map(|(address, _)| *address).collect();
        for address in addresses {
            let path = self.dir.join(address.to_string());
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::file(path)(error)),
                _ => self.owners.remove(&address),
            };
        }
        Ok(())
    }
}

fn write_atomically(dir: &Path, name: &str, text: &str) -> Result<()> {
    let (path, temporary) = (dir.join(name), dir.join(format!(".{name}.new")));
    fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, &path)).map_err(Error::file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods() -> Ipv4Net {
        "10.0.0.0/29".parse().unwrap()
    }

    #[test]
    fn addresses_go_round_before_one_is_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut ipam = Ipam::open(dir.path()).unwrap();
        let first = ipam.allocate(pods(), "a", 0).unwrap();
        assert_eq!(ipam.allocate(pods(), "a", 0).unwrap(), first, "the same sandbox keeps its address");
        ipam.release("a", None).unwrap();
        let mut seen = BTreeSet::from([first]);
        for n in 1..range::size(pods()) {
            let pod = format!("p{n}");
            assert!(seen.insert(ipam.allocate(pods(), &pod, 0).unwrap()));
            ipam.release(&pod, None).unwrap();
        }
        assert_eq!(ipam.allocate(pods(), "z", 0).unwrap(), first);
    }

    #[test]
    fn addresses_and_the_place_in_the_round_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut ipam = Ipam::open(dir.path()).unwrap();
        let kept = ipam.allocate(pods(), "a", 1).unwrap();
        assert_eq!(Ipam::open(dir.path()).unwrap().get("a", 1), None, "not connected yet");
        ipam.set_ready(kept).unwrap();
        let freed = ipam.allocate(pods(), "b", 0).unwrap();
        ipam.release("b", None).unwrap();
        let mut again = Ipam::open(dir.path()).unwrap();
        assert_eq!(again.get("a", 1), Some(kept));
        let next = again.allocate(pods(), "c", 0).unwrap();
        assert!(next != kept && next != freed);
    }

    #[test]
    fn a_new_sandbox_has_a_new_address_and_a_full_range_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut ipam = Ipam::open(dir.path()).unwrap();
        let old = ipam.allocate(pods(), "a", 0).unwrap();
        let new = ipam.allocate(pods(), "a", 1).unwrap();
        assert_ne!(old, new);
        ipam.release("a", Some(1)).unwrap();
        ipam.set_ready(new).unwrap();
        assert_eq!((ipam.get("a", 0), ipam.get("a", 1)), (None, Some(new)));
        for n in 1..range::size(pods()) {
            ipam.allocate(pods(), &format!("p{n}"), 0).unwrap();
        }
        assert!(matches!(ipam.allocate(pods(), "more", 0), Err(Error::Exhausted(_))));
        ipam.retain(&BTreeSet::from(["a".to_owned()])).unwrap();
        assert_eq!(ipam.owners.len(), 1);
    }
}
