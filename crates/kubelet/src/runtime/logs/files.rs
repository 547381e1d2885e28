//! The files of one log: the one that is written, and those that rotation has moved behind it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// More than the engine keeps: see the log settings of a container's creation.
const ROTATED_MAX: u32 = 9;

/// A file by what it is, not by its name. As long as it is held open nothing else has this identity.
pub(super) type Identity = (u64, u64);

/// An open file of a log.
pub(super) struct LogFile {
    pub file: File,
    pub identity: Identity,
}

/// What is at a path now.
pub(super) fn identity(path: &Path) -> io::Result<Identity> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

/// All files of the log, newest first. The engine may be rotating them meanwhile, which moves each to a higher number: going upwards one may come
/// twice, and is taken once, but none is passed over.
pub(super) fn open_all(path: &Path) -> io::Result<Vec<LogFile>> {
    let mut found: Vec<LogFile> = Vec::new();
    for number in 0..=ROTATED_MAX {
        let file = match fs::OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC).open(numbered(path, number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        let metadata = file.metadata()?;
        let identity = (metadata.dev(), metadata.ino());
        if !found.iter().any(|other| other.identity == identity) {
            found.push(LogFile { file, identity });
        }
    }
    Ok(found)
}

/// The file that was begun after this one; the oldest if this one is gone, `None` if there is none yet.
pub(super) fn next_after(path: &Path, identity: Identity) -> io::Result<Option<LogFile>> {
    let mut files = open_all(path)?;
    match files.iter().position(|file| file.identity == identity) {
        Some(0) => Ok(None),
        Some(index) => Ok(Some(files.swap_remove(index - 1))),
        None => Ok(files.pop()),
    }
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    match number {
        0 => path.to_owned(),
        number => PathBuf::from(format!("{}.{number}", path.display())),
    }
}
