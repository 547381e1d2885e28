//! Why a pod, or one of its containers, is in the state it is in: one value each, from which the text that programs read is derived.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Why something is as it is; upstream's words.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Reason {
            /// The word for programs.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// The reason that a word stands for; `None` for a word that is not ours.
            pub fn parse(word: &str) -> Option<Self> {
                match word {
                    $(stringify!($name) => Some(Self::$name),)+
                    _ => None,
                }
            }
        }
    };
}

reasons! {
    /// A container waits: it is being made.
    ContainerCreating,
    /// A container waits for those that prepare the pod.
    PodInitializing,
    /// A container waits: it has failed again and again.
    CrashLoopBackOff,
    /// An image could not be pulled.
    ErrImagePull,
    /// Its next pull is still to come.
    ImagePullBackOff,
    /// It has no name that an image can have.
    InvalidImageName,
    /// It is not here and must not be pulled.
    ErrImageNeverPull,
    /// It cannot be looked at.
    ImageInspectError,
    /// What a container is made from cannot be had.
    CreateContainerConfigError,
    /// The runtime did not create a container.
    CreateContainerError,
    /// The runtime did not start it.
    RunContainerError,
    /// Nothing starts ephemeral containers yet.
    EphemeralContainersNotSupported,
    /// A container has ended as it should.
    Completed,
    /// It has ended otherwise.
    Error,
    /// The kernel has killed it for the memory it took.
    OOMKilled,
    /// It has ended before it began.
    ContainerCannotRun,
    /// It is gone, and nobody knows how it ended.
    ContainerStatusUnknown,
    /// There is no sandbox.
    FailedCreatePodSandBox,
    /// There are no volumes.
    FailedMount,
    /// The pod was active for too long.
    DeadlineExceeded,
    /// The pod is not ready: it has ended well.
    PodCompleted,
    /// The pod is not ready: it has failed.
    PodFailed,
    /// The pod is not ready: some containers are not.
    ContainersNotReady,
    /// The pod is not initialised.
    ContainersNotInitialized,
    /// The pod is not ready: somebody else has yet to say so.
    ReadinessGatesNotReady,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_derived_from_a_reason_and_read_back() {
        assert_eq!((Reason::OOMKilled.as_str(), Reason::parse("OOMKilled")), ("OOMKilled", Some(Reason::OOMKilled)));
        assert_eq!(Reason::parse("Whatever"), None);
    }
}
