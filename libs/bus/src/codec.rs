//! Messages as bytes: zstd around protobuf, and large ones in parts.

use std::io::Read;

use async_nats::HeaderMap;
use bytes::Bytes;
use prost::Message;

/// The largest message after decompression: 32 MiB, the limit of a node's desired state.
pub const MAX_PLAIN: usize = 32 << 20;

/// A payload with more bytes than this is split. It is well below the server's `max_payload`, and small enough to be
/// stored quickly.
const PART: usize = 512 << 10;

const PART_HEADER: &str = "Edgewright-Part";

/// Why bytes are not the message of the platform that they should be. The same bytes fail again.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not compressed with zstd, or end too early.
    #[error("decompressing the message")]
    Zstd(#[source] std::io::Error),
    /// The message has more than this many bytes when it is decompressed. Decompression stops there.
    #[error("the message is larger than {0} bytes when decompressed")]
    TooLarge(usize),
    /// The decompressed bytes are not the protobuf message that was asked for.
    #[error("decoding the message")]
    Proto(#[from] prost::DecodeError),
    /// A part is missing, stands there twice or is out of order, or the header names more parts than any message has.
    #[error("part {found} where {wanted} was due")]
    Part {
        /// What the header of this part says, `NUMBER/COUNT` in a message of the platform; its first 40 characters.
        found: String,
        /// What the header of the next part would have said, in the same form; `1/0` when a first part is due.
        wanted: String,
    },
}

/// Encodes a message in protobuf and compresses it, as [`decode`] reads it. A message of more than [`MAX_PLAIN`] bytes
/// is encoded as well, and refused by whoever decodes it.
pub fn encode(message: &impl Message) -> Bytes {
    // Level 3 is zstd's own default: documents shrink to a quarter, and higher levels win little.
    zstd::bulk::compress(&message.encode_to_vec(), 3).expect("compressing into memory cannot fail").into()
}

/// Decompresses and decodes a message. One that has more than [`MAX_PLAIN`] bytes is refused before it fills the
/// memory.
pub fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, DecodeError> {
    decode_within(bytes, MAX_PLAIN)
}

/// Does the same for a message that has at most so many bytes when it is decompressed.
pub fn decode_within<M: Message + Default>(bytes: &[u8], longest: usize) -> Result<M, DecodeError> {
    let decoder = zstd::stream::read::Decoder::with_buffer(bytes).map_err(DecodeError::Zstd)?;
    let mut plain = Vec::new();
    decoder.take(longest as u64 + 1).read_to_end(&mut plain).map_err(DecodeError::Zstd)?;
    if plain.len() > longest {
        return Err(DecodeError::TooLarge(longest));
    }
    Ok(M::decode(plain.as_slice())?)
}

/// Splits a payload into what one message may carry: each part with the headers that [`Assembler`] needs. The parts
/// must be published in order, in one batch. A payload that fits into one message stays whole and has no header.
pub fn into_parts(payload: Bytes) -> Vec<(HeaderMap, Bytes)> {
    if payload.len() <= PART {
        return vec![(HeaderMap::new(), payload)];
    }
    let count = payload.len().div_ceil(PART);
    (0..count)
        .map(|at| {
            let mut headers = HeaderMap::new();
            headers.insert(PART_HEADER, format!("{}/{count}", at + 1).as_str());
            (headers, payload.slice(at * PART..payload.len().min((at + 1) * PART)))
        })
        .collect()
}

/// Puts the parts of [`into_parts`] together again, as they come from a stream in order.
#[derive(Default)]
pub struct Assembler {
    parts: Vec<u8>,
    have: usize,
    count: usize,
}

impl Assembler {
    /// Takes the next message of the stream, and returns a payload when it is complete. A new first part or an
    /// undivided message begins anew: what came before it was never completed.
    pub fn take(&mut self, headers: Option<&HeaderMap>, payload: Bytes) -> Result<Option<Bytes>, DecodeError> {
        let Some(header) = headers.and_then(|headers| headers.get(PART_HEADER)) else {
            *self = Self::default();
            return Ok(Some(payload));
        };
        let wanted = format!("{}/{}", self.have + 1, self.count);
        let wrong = || DecodeError::Part { found: header.as_str().chars().take(40).collect(), wanted: wanted.clone() };
        let numbers =
            header.as_str().split_once('/').and_then(|(at, count)| Some((at.parse().ok()?, count.parse().ok()?)));
        let (at, count): (usize, usize) = numbers.ok_or_else(wrong)?;
        if at == 1 {
            *self = Self { count, ..Self::default() };
        }
        if at != self.have + 1 || count != self.count || at > count || count > 2 * MAX_PLAIN / PART {
            let error = wrong();
            *self = Self::default();
            return Err(error);
        }
        self.parts.extend_from_slice(&payload);
        self.have = at;
        Ok((at == count).then(|| std::mem::take(&mut self.parts).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{DesiredDeployment, DesiredNode};

    #[test]
    fn a_message_survives_the_way() {
        let message = DesiredNode {
            version: 7,
            deployments: vec![DesiredDeployment { id: "x".into(), digest: "y".into(), document: "z".into() }],
            ..DesiredNode::default()
        };
        assert_eq!(decode::<DesiredNode>(&encode(&message)).unwrap(), message);
    }

    #[test]
    fn a_bomb_is_refused_before_it_fills_the_memory() {
        let bomb = zstd::bulk::compress(&vec![0; MAX_PLAIN + 1], 19).unwrap();
        assert!(bomb.len() < 10_000);
        assert!(matches!(decode::<DesiredNode>(&bomb), Err(DecodeError::TooLarge(_))));
        assert!(matches!(decode::<DesiredNode>(b"not zstd"), Err(DecodeError::Zstd(_))));
    }

    #[test]
    fn parts_come_together_in_order_and_only_so() {
        let payload = Bytes::from((0..3 * PART as u32 / 4 * 3).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
        let parts = into_parts(payload.clone());
        assert!(parts.len() > 2);
        let mut assembler = Assembler::default();
        let (last, first) = parts.split_last().unwrap();
        for (headers, part) in first {
            assert_eq!(assembler.take(Some(headers), part.clone()).unwrap(), None);
        }
        assert_eq!(assembler.take(Some(&last.0), last.1.clone()).unwrap(), Some(payload));

        let mut assembler = Assembler::default();
        assembler.take(Some(&parts[0].0), parts[0].1.clone()).unwrap();
        assert!(matches!(assembler.take(Some(&parts[2].0), parts[2].1.clone()), Err(DecodeError::Part { .. })));
    }
}
