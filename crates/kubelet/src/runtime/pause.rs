//! The sandbox's image: one static binary, made here and loaded into the engine, so that no registry is needed to start a pod.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::Runtime;

/// Why the sandbox's image is not there.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// The binary cannot be read.
    #[error("cannot read the pause binary {path}; name it with --pause-binary")]
    Read {
        /// Where it was looked for.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The binary needs a loader that its image does not have.
    #[error("the pause binary {0} is not statically linked")]
    Dynamic(PathBuf),
    /// The layer could not be packed.
    #[error("cannot pack the pause image")]
    Pack(#[source] std::io::Error),
    /// The engine refused it.
    #[error("cannot load the pause image")]
    Load(#[source] super::Error),
}

/// Makes sure that the image of the sandbox's container is in the engine, and says its reference.
///
/// # Errors
/// When the binary cannot be read, or the engine does not take the image.
pub async fn ensure_pause_image(runtime: &dyn Runtime, binary: &Path) -> Result<String, PauseError> {
    let reference = format!("ferrokube/pause:{}", env!("CARGO_PKG_VERSION"));
    if runtime.image(&reference).await.map_err(PauseError::Load)?.is_some() {
        return Ok(reference);
    }
    let program = tokio::fs::read(binary).await.map_err(|source| PauseError::Read { path: binary.to_owned(), source })?;
    if is_dynamic(&program) {
        return Err(PauseError::Dynamic(binary.to_owned()));
    }
    let layer = pack(&program).map_err(PauseError::Pack)?;
    let changes = vec!["ENTRYPOINT [\"/pause\"]".to_owned()];
    runtime.import_image(&reference, layer, changes).await.map_err(PauseError::Load)?;
    Ok(reference)
}

fn pack(program: &[u8]) -> std::io::Result<Bytes> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(program.len() as u64);
    let mut archive = tar::Builder::new(Vec::with_capacity(program.len() + 4096));
    archive.append_data(&mut header, "pause", program)?;
    Ok(archive.into_inner()?.into())
}

/// Whether a 64-bit ELF file asks for a program loader (has a PT_INTERP segment).
fn is_dynamic(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let word = |at: usize, len: usize| -> Option<u64> {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(elf.get(at..at.checked_add(len)?)?);
        Some(u64::from_le_bytes(bytes))
    };
    let interp = || -> Option<bool> {
        let (offset, size, count) = (word(32, 8)?, word(54, 2)?, word(56, 2)?);
        (0..count).map(|i| word((offset + i * size) as usize, 4)).find(|kind| *kind == Some(u64::from(PT_INTERP))).map(|_| true)
    };
    elf.starts_with(b"\x7fELF\x02") && interp().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_binary_is_told_from_a_static_one() {
        assert!(is_dynamic(&std::fs::read("/proc/self/exe").unwrap()));
        assert!(!is_dynamic(&std::fs::read("/bin/busybox").unwrap()), "busybox-static is installed");
        assert!(!is_dynamic(b"\x7fELF\x02 cut off"));
    }
}
