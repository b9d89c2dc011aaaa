//! Leases a component of a model, maps its weights, compares every tensor with what the loader told of it, and
//! prints what it has: one line of JSON. Then it keeps the lease until its standard input ends.

use std::error::Error;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

mod descriptors;
mod lease;
mod paths;
mod weights;

/// The API, as its .proto files have it.
#[allow(dead_code, clippy::all, rustdoc::all)]
mod api {
    include!(concat!(env!("OUT_DIR"), "/api.rs"));
}

type Failure = Box<dyn Error>;

const USAGE: &str =
    "usage: modelkeep-worker ADDRESS KEY [SUBMODEL [PRECISION]] [--ttl SECONDS] [--channels-last]
                        [--path-dir FOLDER] [--token-file FILE]
  ADDRESS     of LoaderService: host:port, or unix:/path
  KEY         the model's key
  SUBMODEL    vae, unet, …: of a main model
  PRECISION   auto, float32, float16, bfloat16
  --ttl       lease for so long by AcquireLease, instead of by an open HoldModel stream
  --channels-last  tensors of four dimensions in torch's channels_last
  --path-dir  take the weights as files, and not by descriptors: where this process sees the loader's path_dir";

/// What is asked for.
pub struct Wish {
    pub address: String,
    pub key: String,
    pub submodel: String,
    pub precision: String,
    pub ttl_s: Option<i64>,
    pub channels_last: bool,
    pub path_dir: Option<PathBuf>,
    pub token: Option<String>,
}

impl Wish {
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut places = Vec::new();
        let (mut ttl_s, mut token, mut channels_last, mut path_dir) = (None, None, false, None);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--ttl" => ttl_s = Some(arguments.next().ok_or(USAGE)?.parse()?),
                "--channels-last" => channels_last = true,
                "--path-dir" => path_dir = Some(arguments.next().ok_or(USAGE)?.into()),
                "--token-file" => {
                    let file = arguments.next().ok_or(USAGE)?;
                    token = Some(std::fs::read_to_string(file)?.trim().to_owned());
                }
                _ => places.push(argument),
            }
        }
        if !(2..=4).contains(&places.len()) {
            return Err(USAGE.into());
        }
        places.resize(4, String::new());
        let [address, key, submodel, precision] = <[String; 4]>::try_from(places).expect("four");
        Ok(Self {
            address,
            key,
            submodel,
            precision,
            ttl_s,
            channels_last,
            path_dir,
            token,
        })
    }
}

async fn run(wish: &Wish) -> Result<(), Failure> {
    let mut lease = lease::Lease::take(wish).await?;
    let (connection, files) = match &wish.path_dir {
        // Then nothing but the stream, or the ttl, keeps the lease.
        Some(folder) => (None, paths::open(folder, &lease.grant.paths)?),
        // The connection is a binding of the lease: it stays open as long as the weights are used.
        None => {
            let (open, files) = descriptors::fetch(&lease.grant.socket_path, &lease.grant.ticket)?;
            (Some(open), files)
        }
    };
    let mut components = Vec::new();
    for manifest in &lease.grant.manifests {
        let file = files
            .get(manifest.descriptor_index as usize)
            .ok_or("fewer files came over than components were granted")?;
        components.push(weights::described(file, manifest)?);
    }
    println!("{}", json!({"lease": lease.id(), "components": components}));
    // What is mapped stays mapped; the lease says that the loader keeps it for others, too.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    lease.release().await?;
    drop(connection);
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Wish::from_arguments(std::env::args().skip(1)) {
        Ok(wish) => run(&wish).await,
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match error.downcast_ref::<tonic::Status>() {
                Some(status) => eprintln!("{:?}: {}", status.code(), status.message()),
                None => eprintln!("{error}"),
            }
            ExitCode::FAILURE
        }
    }
}
