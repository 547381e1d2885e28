//! Turns `proto/` into Rust: message types and service stubs (prost, tonic), their JSON encoding (serde attributes), and from the
//! `ferrokube` options the tables of kinds and messages, defaults and single-field validation.

#![expect(clippy::panic, reason = "a schema that makes no sense stops the build")]

#[path = "build/attributes.rs"]
mod attributes;
#[path = "build/model.rs"]
mod model;
#[path = "build/rules.rs"]
mod rules;
#[path = "build/tables.rs"]
mod tables;

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let proto = PathBuf::from("../../proto");
    println!("cargo:rerun-if-changed={}", proto.display());
    println!("cargo:rerun-if-changed=build");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let mut compiler = protox::Compiler::new([&proto])?;
    compiler.include_imports(true).include_source_info(true).open_files(model::proto_files(&proto)?)?;
    let pool = compiler.descriptor_pool();
    let without = without_go_package(&pool);
    assert!(without.is_empty(), "option go_package is missing, without which Go cannot use these files: {without:?}");
    let with_comments = compiler.file_descriptor_set();

    // Served by reflection, with the comments, of which tools make documentation; where what stands is of no use to them.
    let mut reflected = with_comments.clone();
    for info in reflected.file.iter_mut().filter_map(|file| file.source_code_info.as_mut()) {
        info.location.retain(|location| location.leading_comments.is_some());
    }
    fs::write(out.join("descriptors.bin"), reflected.encode_to_vec())?;

    let messages = model::messages(&pool)?;
    let mut config = prost_build::Config::new();
    config
        .bytes(["."])
        .btree_map(["."])
        .compile_well_known_types()
        .include_file("messages.rs")
        .file_descriptor_set_path(out.join("unused.bin"));
    attributes::apply(&mut config, &messages);

    // The options describe the schema; no program reads or writes them.
    let mut compiled = with_comments;
    compiled.file.retain(|f| !matches!(f.name(), "ferrokube/options.proto" | "google/protobuf/descriptor.proto"));
    tonic_prost_build::configure().build_transport(false).compile_fds_with_config(compiled, config)?;

    fs::write(out.join("tables.rs"), tables::render(&messages))?;
    fs::write(out.join("rules.rs"), rules::render(&messages))?;
    Ok(())
}

fn without_go_package(pool: &protox::prost_reflect::DescriptorPool) -> Vec<String> {
    let files = pool.files().filter(|file| !file.name().starts_with("google/protobuf/"));
    let has = |file: &protox::prost_reflect::FileDescriptor| {
        file.file_descriptor_proto().options.as_ref().is_some_and(|options| options.go_package.is_some())
    };
    files.filter(|file| !has(file)).map(|file| file.name().to_owned()).collect()
}
