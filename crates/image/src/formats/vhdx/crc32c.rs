//! The checksum of VHDX's structures: CRC-32C (RFC 3720, appendix B.4).

/// Reflected polynomial 0x1edc6f41.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    let mut number = 0_u32;
    while index < 256 {
        let mut value = number;
        let mut bit = 0;
        while bit < 8 {
            value = (value >> 1) ^ (POLYNOMIAL * (value & 1));
            bit += 1;
        }
        table[index] = value;
        index += 1;
        number += 1;
    }
    table
}

/// Whether a structure's checksum, in its bytes 4 to 7, is right. These bytes count as zero.
pub(super) fn is_right(structure: &[u8]) -> bool {
    let Some((before, rest)) = structure.split_at_checked(4) else {
        return false;
    };
    let Some((stored, after)) = rest.split_first_chunk::<4>() else {
        return false;
    };
    let bytes = before.iter().chain(&[0; 4]).chain(after);
    let sum = !bytes.fold(!0, |sum: u32, byte| {
        (sum >> 8) ^ TABLE[usize::from(sum.to_le_bytes()[0] ^ byte)]
    });
    sum.to_le_bytes() == *stored
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_structure_has_its_checksum_or_not() {
        // RFC 3720: 32 bytes of zeros have the sum aa 36 91 8a.
        let mut structure = [0; 32];
        assert!(!is_right(&structure));
        structure[4..8].copy_from_slice(&[0xaa, 0x36, 0x91, 0x8a]);
        assert!(is_right(&structure));
        structure[31] = 1;
        assert!(!is_right(&structure));
        assert!(!is_right(&structure[..7]));
    }
}
