//! What `scripts/bench` measures. Each figure stands beside what it is compared with: a bare time says nothing.

mod bind;
mod idle;
mod latency;
mod machine;
mod rules;
mod stored;
mod watch;

use std::{fmt, time::Duration};

use anyhow::{bail, ensure};

use crate::{Cluster, progress::Progress, wait};

/// A benchmark on a cluster that is up and otherwise idle.
type Bench = fn(&Cluster, &Progress) -> anyhow::Result<Vec<Figure>>;

/// In the order in which they are run: what needs an empty cluster comes first.
const BENCHES: &[(&str, Bench)] = &[
    ("idle", idle::run),
    ("latency", |cluster, progress| block_on(latency::run(cluster, progress))),
    ("watch", |cluster, progress| block_on(watch::run(cluster, progress))),
    ("stored", |cluster, progress| block_on(stored::run(cluster, progress))),
    ("bind", |cluster, progress| block_on(bind::run(cluster, progress))),
    ("rules", |cluster, progress| block_on(rules::run(cluster, progress))),
];

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Runtime::new()?.block_on(work)
}

/// What a figure has to keep to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
}

/// Something measured.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Of what.
    pub what: String,
    /// How much.
    pub value: f64,
    /// In which unit.
    pub unit: &'static str,
    /// What is asked of it.
    pub goal: Goal,
    /// What others reach, or what it is a share of; empty if the goal is all there is.
    pub reference: String,
}

/// Runs the benchmarks named, or all, and prints the machine and a table of their figures, as docs/benchmarks.md holds them. Says whether
/// every one could be run and every goal was reached.
///
/// # Errors
/// When there is no benchmark of a name, or the machine cannot be described.
pub fn run(cluster: &Cluster, names: &[String], progress: &Progress) -> anyhow::Result<bool> {
    if let Some(unknown) = names.iter().find(|name| BENCHES.iter().all(|(known, _)| known != name)) {
        let known: Vec<_> = BENCHES.iter().map(|(name, _)| *name).collect();
        bail!("there is no benchmark `{unknown}`; there are: {}", known.join(", "));
    }
    let machine = machine::describe(cluster)?;
    let (mut figures, mut failed) = (Vec::new(), false);
    for (name, bench) in BENCHES.iter().filter(|(known, _)| names.is_empty() || names.iter().any(|name| name == known)) {
        settle(cluster, progress)?;
        progress.note(format!("bench {name}"));
        match bench(cluster, progress) {
            Ok(measured) => figures.extend(measured),
            Err(error) => {
                eprintln!("bench {name}: {error:?}");
                failed = true;
            }
        }
    }
    println!("\n{machine}\n\n| what | measured | goal | reference | |\n|---|---|---|---|---|");
    for figure in &figures {
        println!("{figure}");
    }
    Ok(!failed && figures.iter().all(Figure::is_reached))
}

/// Waits until what the last benchmark left has been deleted.
fn settle(cluster: &Cluster, progress: &Progress) -> anyhow::Result<()> {
    wait::until_telling(progress, "the last benchmark's namespace to be gone", Duration::from_secs(120), || {
        let namespaces = cluster.kctl(&["get", "namespaces", "-o", "jsonpath={.items[*].status.phase}"])?;
        ensure!(!namespaces.contains("Terminating"), "{namespaces}");
        Ok(())
    })
}

/// The value below which `share` (0 to 1) of the samples lie.
fn quantile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let index = (samples.len() as f64 * share).ceil() as usize;
    samples.get(index.max(1) - 1).or(samples.last()).copied().unwrap_or(f64::NAN)
}

// === impl Figure ===

impl Figure {
    /// Whether it keeps to its goal.
    pub fn is_reached(&self) -> bool {
        match self.goal {
            Goal::AtMost(limit) => self.value <= limit,
            Goal::AtLeast(limit) => self.value >= limit,
        }
    }
}

impl fmt::Display for Figure {
    /// One row of a Markdown table: what, value, goal, reference, verdict.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, limit) = match self.goal {
            Goal::AtMost(limit) => ('≤', limit),
            Goal::AtLeast(limit) => ('≥', limit),
        };
        let digits = if limit < 10.0 {
            2
        } else if limit < 1000.0 {
            1
        } else {
            0
        };
        let verdict = if self.is_reached() { "reached" } else { "MISSED" };
        let Self { what, value, unit, reference, .. } = self;
        write!(f, "| {what} | {value:.digits$} {unit} | {sign} {limit} {unit} | {reference} | {verdict} |")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_samples() {
        let mut samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!((quantile(&mut samples, 0.5), quantile(&mut samples, 0.99), quantile(&mut samples, 1.0)), (50.0, 99.0, 100.0));
        assert_eq!(quantile(&mut [3.0], 0.99), 3.0);
    }

    #[test]
    fn a_figure_says_whether_it_keeps_to_its_goal() {
        let figure = |value, goal| Figure { what: "memory".into(), value, unit: "MiB", goal, reference: String::new() };
        assert!(figure(40.0, Goal::AtMost(40.0)).is_reached());
        assert!(!figure(39.0, Goal::AtLeast(40.0)).is_reached());
        assert_eq!(figure(41.25, Goal::AtMost(40.0)).to_string(), "| memory | 41.2 MiB | ≤ 40 MiB |  | MISSED |");
    }
}
