//! Makes the client's code out of the API's .proto files, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../../proto");
    let files = protox::compile(
        ["modelkeep/loader/v1/loader_service.proto"],
        ["../../proto", "../../third_party/proto"],
    )?;
    tonic_prost_build::configure()
        .build_server(false)
        .include_file("api.rs")
        .compile_fds(files)?;
    Ok(())
}
