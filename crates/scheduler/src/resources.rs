//! Amounts of resources as the scheduler counts them.

use std::collections::BTreeMap;

use api::{
    amounts::{self, Amounts},
    core::v1::Pod,
    pod,
    quantity::Quantity as Amount,
    resource::Quantity,
};

/// What a container without a CPU request is counted as when nodes are scored (upstream's figure).
const DEFAULT_CPU: Amount = Amount::from_milli(100);
/// What a container without a memory request is counted as when nodes are scored (upstream's figure).
const DEFAULT_MEMORY: Amount = Amount::from_bytes(200 << 20);

/// An amount of each resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPU in thousandths of a core.
    pub milli_cpu: i64,
    /// Memory in bytes.
    pub memory: i64,
    /// Local disk in bytes.
    pub ephemeral_storage: i64,
    /// Number of pods.
    pub pods: i64,
    /// Everything else by name, such as `example.com/gpu` or `hugepages-2Mi`.
    pub extended: BTreeMap<String, i64>,
}

impl Resources {
    /// Reads a list of quantities. What does not parse counts as nothing: the API server refuses it.
    pub fn from_list(list: &BTreeMap<String, Quantity>) -> Self {
        Self::from(amounts::read(list))
    }

    /// What a pod asks for, by [`pod::requests`], and its place.
    pub fn requested_by(pod: &Pod) -> Self {
        Self { pods: 1, ..Self::from(pod::requests(pod.spec())) }
    }

    /// The same for scoring: containers that ask for no CPU or memory are counted with a small default.
    pub fn scored_for(pod: &Pod) -> Self {
        let unsaid = Amounts::from([("cpu".to_owned(), DEFAULT_CPU), ("memory".to_owned(), DEFAULT_MEMORY)]);
        Self { pods: 1, ..Self::from(pod::requests_or(pod.spec(), &unsaid)) }
    }

    /// Adds an amount.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, |a, b| a.saturating_add(b));
    }

    /// Takes an amount away.
    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, |a, b| a.saturating_sub(b));
    }

    fn combine(&mut self, other: &Self, f: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = f(self.milli_cpu, other.milli_cpu);
        self.memory = f(self.memory, other.memory);
        self.ephemeral_storage = f(self.ephemeral_storage, other.ephemeral_storage);
        self.pods = f(self.pods, other.pods);
        for (name, amount) in &other.extended {
            let own = self.extended.entry(name.clone()).or_default();
            *own = f(*own, *amount);
        }
    }

    /// The resources of which less is left than this asks for, `taken` of `all` being gone; what is not asked for cannot be short.
    pub fn short_of<'a>(&'a self, all: &'a Self, taken: &'a Self) -> impl Iterator<Item = &'a str> {
        let basic = [
            ("cpu", self.milli_cpu, all.milli_cpu, taken.milli_cpu),
            ("memory", self.memory, all.memory, taken.memory),
            ("ephemeral-storage", self.ephemeral_storage, all.ephemeral_storage, taken.ephemeral_storage),
        ];
        let of = |amount: &Self, name: &str| amount.extended.get(name).copied().unwrap_or_default();
        let extended = self.extended.iter().map(move |(name, want)| (name.as_str(), *want, of(all, name), of(taken, name)));
        let short = |(_, want, all, taken): &(&str, i64, i64, i64)| *want > 0 && *want > all.saturating_sub(*taken);
        basic.into_iter().chain(extended).filter(short).map(|(name, ..)| name)
    }
}

impl From<Amounts> for Resources {
    fn from(amounts: Amounts) -> Self {
        let mut out = Self::default();
        for (name, amount) in amounts {
            match name.as_str() {
                "cpu" => out.milli_cpu = amount.milli_value(),
                "memory" => out.memory = amount.value(),
                "ephemeral-storage" => out.ephemeral_storage = amount.value(),
                "pods" => out.pods = amount.value(),
                _ => {
                    out.extended.insert(name, amount.value());
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use api::core::v1::{Container, ResourceRequirements};

    use super::*;

    fn container(cpu: &str, memory: &str) -> Container {
        let quantity = |s: &str| Quantity { string: s.to_owned() };
        let requests = BTreeMap::from([("cpu".to_owned(), quantity(cpu)), ("memory".to_owned(), quantity(memory))]);
        Container { resources: Some(ResourceRequirements { requests, ..Default::default() }), ..Default::default() }
    }

    #[test]
    fn a_pod_asks_for_its_containers_or_its_largest_init_container() {
        let mut pod = Pod::default();
        pod.spec_mut().containers = vec![container("100m", "1Gi"), container("200m", "1Gi")];
        pod.spec_mut().init_containers = vec![container("1", "512Mi")];
        let asked = Resources::requested_by(&pod);
        assert_eq!((asked.milli_cpu, asked.memory, asked.pods), (1000, 2 << 30, 1));
    }

    #[test]
    fn a_sidecar_counts_beside_the_containers_and_later_init_containers() {
        let mut pod = Pod::default();
        pod.spec_mut().containers = vec![container("100m", "1Mi")];
        let sidecar = Container { restart_policy: Some("Always".to_owned()), ..container("50m", "1Mi") };
        pod.spec_mut().init_containers = vec![sidecar, container("500m", "1Mi")];
        assert_eq!(Resources::requested_by(&pod).milli_cpu, 550);
    }

    #[test]
    fn only_what_is_asked_for_can_be_short() {
        let want = Resources { milli_cpu: 5, ..Default::default() };
        let all = Resources { milli_cpu: 6, ..Default::default() };
        let taken = Resources { memory: 1, milli_cpu: 2, ..Default::default() };
        assert_eq!(want.short_of(&all, &taken).collect::<Vec<_>>(), ["cpu"]);
    }
}
