//! The pause binary: first process of every pod sandbox. It holds the pod's namespaces open, reaps the orphans that land on it when the pod
//! shares its process namespace, and leaves on SIGTERM or SIGINT.
//!
//! It waits for signals synchronously (they stay blocked), so it has no handler, no allocation and no thread; as process 1 a blocked
//! signal is delivered to `sigwait` although its default action would be ignored.

use std::{mem::MaybeUninit, process::ExitCode, ptr};

fn main() -> ExitCode {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the whole set before anything reads it; every call gets valid pointers or null where allowed.
    let set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGCHLD] {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut());
        set.assume_init()
    };
    reap();
    loop {
        let mut signal = 0;
        // SAFETY: both pointers are to live locals.
        if unsafe { libc::sigwait(&set, &mut signal) } != 0 {
            return ExitCode::FAILURE;
        }
        if signal == libc::SIGCHLD {
            reap();
        } else {
            return ExitCode::SUCCESS;
        }
    }
}

/// Collects every child that has ended; signals merge, so one SIGCHLD may stand for many.
fn reap() {
    // SAFETY: a null status pointer is allowed, WNOHANG keeps the call from blocking.
    while unsafe { libc::waitpid(-1, ptr::null_mut(), libc::WNOHANG) } > 0 {}
}
