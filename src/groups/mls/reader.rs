//! Bytes in the presentation language of TLS, as MLS writes it (RFC 9420 §2.1), read from the front without copying.

use super::NotMls;

/// What is left to read.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What is left.
    pub(super) const fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], NotMls> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(NotMls::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], NotMls> {
        self.take(N)?.try_into().map_err(|_| NotMls::Malformed)
    }

    pub(super) fn u8(&mut self) -> Result<u8, NotMls> {
        Ok(u8::from_be_bytes(self.number()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, NotMls> {
        Ok(u16::from_be_bytes(self.number()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, NotMls> {
        Ok(u32::from_be_bytes(self.number()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, NotMls> {
        Ok(u64::from_be_bytes(self.number()?))
    }

    /// The length before a vector (RFC 9420 §2.1.2), which must have its shortest form.
    fn length(&mut self) -> Result<usize, NotMls> {
        let first = self.0.first().ok_or(NotMls::Malformed)?;
        let (length, least) = match first >> 6 {
            0 => (u32::from(self.u8()?), 0),
            1 => (u32::from(self.u16()? & 0x3fff), 1 << 6),
            2 => (self.u32()? & 0x3fff_ffff, 1 << 14),
            _ => return Err(NotMls::Malformed),
        };
        if length < least {
            return Err(NotMls::Malformed);
        }
        usize::try_from(length).map_err(|_| NotMls::Malformed)
    }

    /// A vector's bytes.
    pub(super) fn vector(&mut self) -> Result<&'a [u8], NotMls> {
        let length = self.length()?;
        self.take(length)
    }

    /// Refuses what is left over.
    pub(super) fn end(self) -> Result<(), NotMls> {
        if self.0.is_empty() { Ok(()) } else { Err(NotMls::Malformed) }
    }
}

/// Writes a vector: its length in the shortest form, then its bytes. None for 2^30 bytes and more.
pub(super) fn write_vector(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length < 1 << 30)?;
    match length {
        0..0x40 => out.extend(&length.to_be_bytes()[3..]),
        0x40..0x4000 => out.extend(&(length | 0x4000).to_be_bytes()[2..]),
        _ => out.extend((length | 0x8000_0000).to_be_bytes()),
    }
    out.extend(bytes);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_comes_back_as_it_was_written() {
        for length in [0, 1, 63, 64, 16_383, 16_384, 70_000] {
            let (bytes, mut out) = (vec![7; length], Vec::new());
            write_vector(&bytes, &mut out).unwrap();
            let mut reader = Reader::new(&out);
            assert_eq!(reader.vector().unwrap(), bytes);
            reader.end().unwrap();
        }
    }

    #[test]
    fn a_length_in_a_longer_form_than_needed_is_refused() {
        for bad in [&[0x40, 1, 9][..], &[0x80, 0, 0, 1, 9], &[0xc0, 0, 0, 0, 0, 0, 0, 1, 9], &[2, 9], &[]] {
            assert!(Reader::new(bad).vector().is_err(), "{bad:?}");
        }
    }
}
