//! gRPC's length-prefixed messages (gRPC over HTTP/2, "Length-Prefixed-Message").

use bytes::{BufMut as _, Bytes, BytesMut};

/// Puts the five bytes in front: not compressed, length.
pub(crate) fn frame_message(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

/// Takes one whole, uncompressed message out of a body.
pub(crate) fn unframe_message(body: &Bytes) -> Option<Bytes> {
    let (head, message) = body.split_at_checked(5)?;
    let [0, length @ ..] = <[u8; 5]>::try_from(head).ok()? else {
        return None;
    };
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    (message.len() == length).then(|| body.slice(5..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_and_half_of_one_does_not() {
        let framed = frame_message(b"reading");
        assert_eq!(unframe_message(&framed).as_deref(), Some(&b"reading"[..]));
        assert_eq!(unframe_message(&framed.slice(..8)), None);
        assert_eq!(unframe_message(&Bytes::from_static(&[1, 0, 0, 0, 0])), None);
    }
}
