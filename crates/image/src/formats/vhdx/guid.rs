//! GUIDs, which identify regions and metadata items.

use std::fmt;

/// A GUID as it is in the file: the first three fields in little-endian order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Guid(pub(super) [u8; 16]);

impl Guid {
    /// Converts from the number that is the GUID's text without hyphens.
    pub(super) const fn new(text: u128) -> Self {
        let t = text.to_be_bytes();
        Self([
            t[3], t[2], t[1], t[0], t[5], t[4], t[7], t[6], t[8], t[9], t[10], t[11], t[12], t[13],
            t[14], t[15],
        ])
    }

    /// Reads one at an offset of a structure.
    pub(super) fn at(structure: &[u8], at: usize) -> Option<Self> {
        Some(Self(*structure.get(at..)?.first_chunk()?))
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([a, b, c, d, e, g, h, i, rest @ ..]) = self;
        write!(
            f,
            "{d:02x}{c:02x}{b:02x}{a:02x}-{g:02x}{e:02x}-{i:02x}{h:02x}-"
        )?;
        let (first, last) = rest.split_at(2);
        first.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-")?;
        last.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_fields_are_little_endian() {
        let guid = Guid::new(0x2dc2_7766_f623_4200_9d64_115e_9bfd_4a08);
        assert_eq!(guid.0[..6], [0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6]);
        assert_eq!(guid.to_string(), "2dc27766-f623-4200-9d64-115e9bfd4a08");
        assert!(Guid::at(&guid.0, 0) == Some(guid) && Guid::at(&guid.0, 1).is_none());
    }
}
