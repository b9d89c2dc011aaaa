//! Makes the stubs of all services out of the API's .proto files, without protoc. The worker calls the loader alone.

const SERVICES: [&str; 5] = ["record", "download", "install", "loader", "server"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../../proto");
    let files = protox::compile(
        SERVICES.map(|name| format!("modelkeep/{name}/v1/{name}_service.proto")),
        ["../../proto", "../../third_party/proto"],
    )?;
    tonic_prost_build::configure()
        .build_server(false)
        .include_file("api.rs")
        .compile_fds(files)?;
    Ok(())
}
