//! Processes of the host that the engine has no call for.

use std::{fs, io};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How often the processes are gone through: one may start another while its session is being ended.
const ROUNDS: u32 = 3;

/// Kills a process that leads a session, with all that are in it. What has begun a session of its own lives on, as it does when a terminal is closed.
/// Blocks for a moment.
pub(super) fn kill_session(leader: i32) -> io::Result<()> {
    // The leader first: it starts nothing any more.
    let mut doomed = vec![leader];
    for _ in 0..ROUNDS {
        for pid in doomed.drain(..) {
            match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        doomed.extend(members(leader)?);
        if doomed.is_empty() {
            break;
        }
    }
    Ok(())
}

fn members(leader: i32) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // One that is gone meanwhile is no member.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if session_and_state(&stat).is_some_and(|(session, state)| session == leader && state != "Z") {
            found.push(pid);
        }
    }
    Ok(found)
}

/// The session and the state in `/proc/<pid>/stat`; the name before them may hold anything.
fn session_and_state(stat: &str) -> Option<(i32, &str)> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    Some((fields.nth(2)?.parse().ok()?, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_found_whatever_its_processes_are_called() {
        assert_eq!(session_and_state("42 (a ) b (c) S 1 42 17 34816 42 4194304"), Some((17, "S")));
        assert_eq!(session_and_state("42 (cut"), None);
    }
}
