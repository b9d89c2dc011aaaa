//! A lease on components: held by an open HoldModel stream, or for a while by AcquireLease.

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};

use crate::api::modelkeep::loader::v1::hold_model_response::Event;
use crate::api::modelkeep::loader::v1::loader_service_client::LoaderServiceClient;
use crate::api::modelkeep::loader::v1::{
    AcquireLeaseRequest, ComponentRef, Delivery, Grant, HoldModelRequest, HoldModelResponse,
    MemoryFormat, Precision, ReleaseLeaseRequest,
};
use crate::api::modelkeep::model::v1::SubModelType;
use crate::{Failure, Wish};

const LABEL: &str = "modelkeep-worker (Rust)";

/// A lease that was granted.
pub struct Lease {
    pub grant: Grant,
    client: LoaderServiceClient<Channel>,
    token: Option<MetadataValue<Ascii>>,
    /// While it is open the lease lives.
    _stream: Option<Streaming<HoldModelResponse>>,
}

impl Lease {
    /// Asks for a lease, and waits until it is granted.
    pub async fn take(wish: &Wish) -> Result<Self, Failure> {
        let mut client = LoaderServiceClient::new(connected(&wish.address).await?);
        let token = match &wish.token {
            Some(token) => Some(format!("Bearer {token}").parse()?),
            None => None,
        };
        let components = vec![component(wish)?];
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
            .trim()
            .to_owned();
        let pid = std::process::id() as i32;
        let delivery = match wish.path_dir {
            Some(_) => Delivery::Path,
            None => Delivery::Fd,
        } as i32;
        if let Some(seconds) = wish.ttl_s {
            let request = AcquireLeaseRequest {
                components,
                boot_id,
                pid,
                delivery,
                label: LABEL.to_owned(),
                ttl: Some(prost_types::Duration { seconds, nanos: 0 }),
                ..Default::default()
            };
            let answer = client
                .acquire_lease(shown(request, &token))
                .await?
                .into_inner();
            let grant = answer.grant.ok_or("the loader answered without a grant")?;
            return Ok(Self {
                grant,
                client,
                token,
                _stream: None,
            });
        }
        let request = HoldModelRequest {
            components,
            boot_id,
            pid,
            delivery,
            label: LABEL.to_owned(),
            ..Default::default()
        };
        let mut stream = client
            .hold_model(shown(request, &token))
            .await?
            .into_inner();
        while let Some(frame) = stream.message().await? {
            match frame.event {
                Some(Event::Granted(grant)) => {
                    return Ok(Self {
                        grant,
                        client,
                        token,
                        _stream: Some(stream),
                    });
                }
                Some(Event::Lost(lost)) => {
                    return Err(lost
                        .error
                        .map(|error| error.message)
                        .unwrap_or_default()
                        .into());
                }
                _ => {} // queued, progress, a sign of life
            }
        }
        Err("the loader ended the stream without a grant".into())
    }

    /// Its name, as lists show it.
    pub fn id(&self) -> &str {
        self.grant.lease.as_ref().map_or("", |lease| &lease.id)
    }

    /// Ends it in good order; one that is not released ends a moment after its holder.
    pub async fn release(&mut self) -> Result<(), Failure> {
        let request = ReleaseLeaseRequest {
            lease_id: self.id().to_owned(),
            lease_secret: self.grant.lease_secret.clone(),
        };
        self.client
            .release_lease(shown(request, &self.token))
            .await?;
        Ok(())
    }
}

async fn connected(address: &str) -> Result<Channel, Failure> {
    let target = if address.starts_with("unix:") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    Ok(Endpoint::from_shared(target)?.connect().await?)
}

/// The request, with the token that says who asks.
fn shown<T>(message: T, token: &Option<MetadataValue<Ascii>>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request
            .metadata_mut()
            .insert("authorization", token.clone());
    }
    request
}

fn component(wish: &Wish) -> Result<ComponentRef, Failure> {
    let submodel = match wish.submodel.as_str() {
        "" => SubModelType::Unspecified,
        name => SubModelType::from_str_name(&format!("SUB_MODEL_TYPE_{}", name.to_uppercase()))
            .ok_or_else(|| format!("there is no submodel {name:?}"))?,
    };
    let precision = match wish.precision.as_str() {
        "" => Precision::Auto,
        name => Precision::from_str_name(&format!("PRECISION_{}", name.to_uppercase()))
            .ok_or_else(|| format!("there is no precision {name:?}"))?,
    };
    let memory_format = if wish.channels_last {
        MemoryFormat::ChannelsLast
    } else {
        MemoryFormat::Contiguous
    };
    Ok(ComponentRef {
        key: wish.key.clone(),
        submodel: submodel as i32,
        precision: precision as i32,
        memory_format: memory_format as i32,
        ..Default::default()
    })
}
