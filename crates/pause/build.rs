//! Links the pause binary statically with glibc, whichever way cargo is called, so that it runs in an image that holds nothing else.
//!
//! `-C target-feature=+crt-static` would do the same, but it can only be given from outside, and a plain `cargo build` would quietly replace
//! the static binary by a dynamic one. std asks for its C libraries as shared ones; here each of those names leads to the static archive.

use std::{env, error::Error, fs, path::Path};

/// What std asks for, and the archive that stands in for it.
const LIBRARIES: [(&str, &str); 7] =
    [("gcc_s", "gcc_eh"), ("util", "util"), ("rt", "rt"), ("pthread", "pthread"), ("m", "m"), ("dl", "dl"), ("c", "c")];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let out = env::var("OUT_DIR")?;
    for (name, archive) in LIBRARIES {
        fs::write(Path::new(&out).join(format!("lib{name}.so")), format!("INPUT(-l:lib{archive}.a)\n"))?;
    }
    println!("cargo:rustc-link-arg-bins=-L{out}");
    println!("cargo:rustc-link-arg-bins=-no-pie");
    println!("cargo:rustc-link-arg-bins=-static");
    // The archives call each other; resolve what is still open once all are known.
    println!("cargo:rustc-link-arg-bins=-Wl,--start-group,-lgcc_eh,-lc,--end-group");
    Ok(())
}
