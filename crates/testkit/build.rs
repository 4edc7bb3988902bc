//! Makes Rust of `proto/workload.proto`, without a protobuf compiler on the machine.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto/workload.proto");
    let files = protox::compile(["workload.proto"], ["proto"])?;
    tonic_prost_build::configure().build_transport(false).compile_fds(files)?;
    Ok(())
}
