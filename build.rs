//! Compiles `proto/` into the wire types: prost for the bytes, pbjson for the proto3 JSON mapping.
//!
//! protox is a protobuf compiler in Rust, so there is no `protoc` to install. The descriptor set
//! is kept beside the code: the contract test compares it with the committed one.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 5] = [
    "hubbub/cluster/v1/node.proto",
    "hubbub/v1/client.proto",
    "hubbub/v1/server.proto",
    "hubbub/v1/record.proto",
    "hubbub/v1/error.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let descriptor_bytes = descriptors.encode_to_vec();
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out_dir.join("descriptor.bin"), &descriptor_bytes)?;

    prost_build::Config::new().bytes(["."]).skip_protoc_run().compile_fds(descriptors)?;
    pbjson_build::Builder::new()
        .register_descriptors(&descriptor_bytes)?
        .ignore_unknown_fields()
        .build(&[".hubbub.v1"])?;
    Ok(())
}
