//! Prints the models: cargo run --example list_models [http://HOST:PORT]

use api::modelkeep::record::v1::record_service_client::RecordServiceClient;
use api::modelkeep::record::v1::ListModelsRequest;

/// The API, as its .proto files have it.
#[allow(dead_code, clippy::all, rustdoc::all)]
mod api {
    include!(concat!(env!("OUT_DIR"), "/api.rs"));
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("http://127.0.0.1:50051".into());
    let channel = tonic::transport::Channel::from_shared(address)?.connect().await?;
    let mut records = RecordServiceClient::new(channel);
    for model in records.list_models(ListModelsRequest::default()).await?.into_inner().models {
        println!("{} {}", model.key, model.name);
    }
    Ok(())
}
