//! The control socket: whole messages (`SOCK_SEQPACKET`) with descriptors.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};

use crate::sys;

/// The most descriptors in one message (the kernel's own limit is 253).
pub(crate) const MAX_DESCRIPTORS: usize = 64;

/// The most bytes in one message; longer bodies travel as memory files.
const MAX_MESSAGE: usize = 64 * 1024;

/// Longest body that is read from a peer's memory file.
const MAX_BODY: u64 = 64 * 1024 * 1024;

/// Two connected ends, both closed on exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?)
}

/// Sends one message.
pub(crate) fn send(socket: BorrowedFd<'_>, body: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if descriptors.len() > MAX_DESCRIPTORS || body.len() > MAX_MESSAGE || body.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "message of this size cannot be sent",
        ));
    }
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    loop {
        match sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(body)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Ok(_) => return Ok(()),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one message; nothing when the other end is closed.
///
/// # Errors
/// `Interrupted` by a signal: nothing was taken, ask again.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut body = vec![0_u8; MAX_MESSAGE];
    let mut space = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut descriptors = Vec::new();
    let length = {
        let mut slices = [IoSliceMut::new(&mut body)];
        let received = recvmsg::<()>(
            socket.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        );
        let message = match received {
            Ok(message) => message,
            Err(nix::Error::ECONNRESET) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = control {
                descriptors.extend(raw.into_iter().map(sys::own));
            }
        }
        if message
            .flags
            .intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC)
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "message was cut short",
            ));
        }
        message.bytes
    };
    if length == 0 {
        return Ok(None);
    }
    body.truncate(length);
    Ok(Some((body, descriptors)))
}

/// A memory file that holds `body`.
pub(crate) fn memory_file(body: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(c"bartizan-request", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(body)?;
    file.rewind()?;
    Ok(file.into())
}

/// The whole content of a memory file.
pub(crate) fn read_memory_file(descriptor: OwnedFd) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    File::from(descriptor).take(MAX_BODY).read_to_end(&mut body)?;
    Ok(body)
}

/// Borrows several owned descriptors.
pub(crate) fn borrow(descriptors: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    descriptors.iter().map(AsFd::as_fd).collect()
}
