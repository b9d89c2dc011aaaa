//! The descriptor socket: a ticket for descriptors of the lent memory.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{recvmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::Failure;

const TIMEOUT: Duration = Duration::from_secs(10);
/// As many as a lease may have components.
const MOST: usize = 16;

/// Hands a ticket in.
///
/// The connection is a binding of the lease while it is open. The files are read-only, and closed on exec.
pub fn fetch(socket: &str, ticket: &[u8]) -> Result<(UnixStream, Vec<File>), Failure> {
    let mut connection = UnixStream::connect(socket).map_err(|error| {
        format!("the loader's descriptor socket {socket} cannot be reached: {error}")
    })?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    connection.write_all(ticket)?;
    let mut files = Vec::new();
    let mut answer = [0_u8; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(
        &connection,
        &mut [IoSliceMut::new(&mut answer)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = part {
            files.extend(descriptors.map(File::from));
        }
    }
    if message.bytes == 0 {
        return Err("the loader closed the descriptor socket without an answer".into());
    }
    if answer[0] != 0 {
        let mut refusal = String::new();
        connection.take(4096).read_to_string(&mut refusal)?;
        return Err(refusal.into());
    }
    Ok((connection, files))
}
