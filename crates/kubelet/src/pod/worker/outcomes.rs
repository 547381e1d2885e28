//! What comes of a worker's jobs: successes are looked at in the runtime, failures are remembered with their reason and the time of the next try.

use std::sync::Arc;

use api::core::v1::PodStatus;
use jiff::Timestamp;
use tracing::{debug, info, warn};

use super::{Done, RETRY, SANDBOX_RETRY_MAX, Worker};
use crate::{
    cluster::PodEvent,
    images::ImageError,
    network::Addresses,
    pod::{
        backoff::later,
        jobs::{SandboxStage, StartFailure, VolumeStage},
        plan::{Start, TearDown},
        reason::Reason,
        spec::spec_hash,
        state::{Failure, Task, VolumeState, retry_delay},
        unit::{unit, units},
    },
    runtime::Container,
};

// === impl Worker ===

impl Worker {
    pub(super) async fn finish(&mut self, done: Done) {
        match done {
            Done::Sandbox(result) => {
                self.memory.busy.remove(&Task::Sandbox);
                self.finish_sandbox(result).await;
            }
            Done::Volumes(result) => {
                self.memory.busy.remove(&Task::Volumes);
                self.finish_volumes(result);
            }
            Done::Start(start, hash, result) => {
                self.memory.busy.remove(&Task::Start(start.container.clone()));
                self.finish_start(&start, &hash, result).await;
            }
            Done::Signal(id, result) => {
                self.memory.busy.remove(&Task::Signal(id.clone()));
                if let Err(error) = result {
                    warn!(container = id, error = %api::error::chain(&error), "cannot signal a container");
                    self.force_again(&id);
                }
                self.look_at(&id).await;
            }
            Done::Remove(id, result) => {
                self.memory.busy.remove(&Task::Remove(id.clone()));
                if let Err(error) = result {
                    warn!(container = id, error = %api::error::chain(&error), "cannot remove a container");
                    self.retry_later();
                }
                self.look_at(&id).await;
            }
            Done::TearDown(what, result) => {
                self.memory.busy.remove(&Task::TearDown);
                match result {
                    Ok(()) => {
                        self.memory.sandbox_clean = true;
                        self.memory.clean = what == TearDown::Everything;
                        if what == TearDown::Sandbox {
                            self.look_at_all().await;
                        }
                    }
                    Err(message) => {
                        warn!(uid = self.uid, message, "cannot clean up after a pod");
                        self.retry_later();
                    }
                }
            }
            Done::Status(status, result) => {
                self.writing = false;
                match result {
                    Ok(None) => self.deleted = true,
                    Ok(Some(revision)) => {
                        self.count_start(&status);
                        if revision >= self.written_at {
                            self.written = *status;
                            self.written_at = revision;
                            self.show_written();
                        }
                        self.move_on_from_pull_errors();
                    }
                    Err(error) => {
                        debug!(uid = self.uid, error = %api::error::chain(&error), "cannot write the pod's status");
                        self.retry_later();
                    }
                }
            }
            Done::Deleted(result) => {
                self.writing = false;
                match result {
                    Ok(()) => self.deleted = true,
                    Err(error) => {
                        warn!(uid = self.uid, error = %api::error::chain(&error), "cannot delete the pod's object");
                        self.retry_later();
                    }
                }
            }
        }
    }

    /// A container that could not be made to stop is made to once more.
    fn force_again(&mut self, id: &str) {
        let deadline = self.soon(RETRY);
        if let Some(stopping) = self.memory.stopping.get_mut(id).filter(|stopping| stopping.forced) {
            (stopping.deadline, stopping.failed) = (deadline, true);
        }
    }

    /// The first time that a pod is told to be ready ends its start.
    fn count_start(&mut self, status: &PodStatus) {
        let ready = status.conditions.iter().find(|condition| condition.r#type == "Ready");
        if ready.is_some_and(|ready| ready.status == "True")
            && let Some(since) = self.starting_since.take()
        {
            self.ctx.metrics.pod_started(since.elapsed());
        }
    }

    async fn finish_sandbox(&mut self, result: Result<(Container, Addresses), String>) {
        match result {
            Ok((container, addresses)) => {
                self.tell_sandbox(&container, &addresses);
                self.ctx.metrics.sandbox_made(true);
                (self.memory.sandbox, self.memory.sandbox_failures) = (None, 0);
            }
            Err(message) => {
                let reason = Reason::FailedCreatePodSandBox;
                self.tell_failure("", self.memory.sandbox.as_ref(), reason, &message);
                self.ctx.metrics.sandbox_made(false);
                self.sandbox.send_replace(SandboxStage::Failed);
                self.event(PodEvent::warning(reason.as_str(), message.clone()));
                self.memory.sandbox_failures += 1;
                let retry_at = self.soon(retry_delay(self.memory.sandbox_failures).min(SANDBOX_RETRY_MAX));
                self.memory.sandbox = Some(Failure { reason, message, retry_at });
            }
        }
        self.look_at_all().await;
    }

    fn finish_volumes(&mut self, result: Result<crate::volumes::Mounted, String>) {
        match result {
            Ok(mounted) => {
                self.memory.volume_failures = 0;
                if !matches!(&*self.volumes.borrow(), VolumeStage::Ready(_)) {
                    info!(volumes = self.desired.pod.spec().volumes.len(), "volumes mounted");
                }
                let mounted = Arc::new(mounted);
                self.memory.volumes = VolumeState::Ready(mounted.clone());
                self.volumes.send_replace(VolumeStage::Ready(mounted));
            }
            Err(message) => {
                let last = if let VolumeState::Failed(last) = &self.memory.volumes { Some(last) } else { None };
                let reason = Reason::FailedMount;
                self.tell_failure("", last, reason, &message);
                self.event(PodEvent::warning(reason.as_str(), message.clone()));
                self.memory.volume_failures += 1;
                let retry_at = self.soon(retry_delay(self.memory.volume_failures));
                self.memory.volumes = VolumeState::Failed(Failure { reason, message, retry_at });
                // Containers that run keep what they have; those that wait are told.
                self.volumes.send_if_modified(|stage| {
                    !matches!(stage, VolumeStage::Ready(_)) && {
                        *stage = VolumeStage::Failed;
                        true
                    }
                });
            }
        }
        if std::mem::take(&mut self.memory.volumes_stale) {
            self.memory.volumes = VolumeState::Unknown;
        }
    }

    async fn finish_start(&mut self, start: &Start, hash: &str, result: Result<Container, StartFailure>) {
        let name = &start.container;
        let now = Timestamp::now();
        let failure = match result {
            Ok(container) => {
                self.ctx.metrics.container_started(Ok(()));
                let memory = self.memory.container(name);
                memory.failure = None;
                memory.create_failures = 0;
                memory.pulls.reset();
                // What the job has seen may be out of date.
                self.look_at(&container.id).await;
                return;
            }
            Err(StartFailure::Aborted) => {
                self.look_at_all().await;
                return;
            }
            Err(failure) => failure,
        };
        let unit = unit(self.desired.pod.spec(), name).filter(|unit| spec_hash(&unit.spec) == hash);
        let Some(image) = unit.map(|unit| unit.spec.image.clone()) else {
            // It is wanted in another way since: what failed is no more.
            self.look_at_all().await;
            return;
        };
        let memory = self.memory.container(name);
        memory.create_failures += 1;
        let retry_at = later(now, retry_delay(memory.create_failures)).unwrap_or(now);
        let (reason, message, retry_at) = match &failure {
            StartFailure::Image(error) => {
                memory.pulls.advance(now, now);
                let retry_at = later(now, memory.pulls.delay()).unwrap_or(now);
                let text = error.to_string();
                match error {
                    ImageError::InvalidName(..) => (Reason::InvalidImageName, text, retry_at),
                    ImageError::NeverPull(_) => (Reason::ErrImageNeverPull, text, retry_at),
                    ImageError::Pull(_) => (Reason::ErrImagePull, text, retry_at),
                    ImageError::Inspect(_) => (Reason::ImageInspectError, text, retry_at),
                }
            }
            StartFailure::Config(message) => (Reason::CreateContainerConfigError, message.clone(), retry_at),
            StartFailure::Create(error) => (Reason::CreateContainerError, api::error::chain(error), retry_at),
            StartFailure::Run(error) => (Reason::RunContainerError, api::error::chain(error), retry_at),
            StartFailure::Aborted => return,
        };
        self.ctx.metrics.container_started(Err(reason.as_str()));
        self.tell_failure(name, self.memory.containers.get(name).and_then(|memory| memory.failure.as_ref()), reason, &message);
        // What is wrong with an image is told first, and then that the container waits for it.
        let about_image = match &failure {
            StartFailure::Image(ImageError::Pull(_)) => Some(("Failed", format!("Failed to pull image {image:?}: {message}"))),
            StartFailure::Image(ImageError::InvalidName(..)) => Some(("InspectFailed", message.clone())),
            StartFailure::Image(ImageError::NeverPull(_)) => Some(("ErrImageNeverPull", message.clone())),
            _ => None,
        };
        let error = if about_image.is_some() { reason.as_str() } else { &message };
        if let Some((of, text)) = about_image {
            self.event(PodEvent::warning(of, text).about(name));
        }
        self.event(PodEvent::warning("Failed", format!("Error: {error}")).about(name));
        self.memory.container(name).failure = Some(Failure { reason, message, retry_at });
        self.look_at_all().await;
        // Where the runtime counts it as one that ended, the delay of restarts is what holds it back.
        let ended = self.observed.newest(name).is_some_and(|container| container.exit().is_some());
        if let Some(failure) = &mut self.memory.container(name).failure
            && failure.reason == Reason::RunContainerError
            && ended
        {
            failure.retry_at = now;
        }
    }

    /// A failed pull has been told; until the next try it is the delay that the container waits for.
    fn move_on_from_pull_errors(&mut self) {
        let mut told = Vec::new();
        for unit in units(self.desired.pod.spec()) {
            let memory = self.memory.containers.get_mut(unit.name());
            let Some(failure) = memory.and_then(|container| container.failure.as_mut()) else { continue };
            if failure.reason == Reason::ErrImagePull {
                let (name, image) = (unit.name().to_owned(), unit.spec.image.clone());
                failure.reason = Reason::ImagePullBackOff;
                failure.message = format!("Back-off pulling image {image:?}: ErrImagePull: {}", failure.message);
                told.push((name, image));
            }
        }
        for (name, image) in told {
            self.event(PodEvent::normal("BackOff", format!("Back-off pulling image {image:?}")).about(&name));
            self.event(PodEvent::warning("Failed", "Error: ImagePullBackOff").about(&name));
        }
    }
}
