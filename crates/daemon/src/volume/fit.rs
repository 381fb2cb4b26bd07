//! Whether an existing volume is large enough.

use super::VolumeError;

/// An existing volume is reused when it has at least this share of the requested size.
const REUSE_PERCENT: u128 = 95;

/// Fails if an existing volume is too small: it must have at least 95 % of the requested size (so that a volume
/// created with different rounding is accepted), and at least the size of the image's disk.
pub fn fits(
    existing_bytes: u64,
    requested_bytes: u64,
    image_virtual_bytes: u64,
) -> Result<(), VolumeError> {
    if existing_bytes < image_virtual_bytes {
        return Err(VolumeError::too_small(
            existing_bytes,
            image_virtual_bytes,
            ("the image's disk", ""),
        ));
    }
    let enough = u128::from(existing_bytes) * 100 >= u128::from(requested_bytes) * REUSE_PERCENT;
    if !enough {
        return Err(VolumeError::too_small(
            existing_bytes,
            requested_bytes,
            ("the request", ", or 95 % of that"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::VolumeErrorKind;
    use super::*;

    const GIB: u64 = 1 << 30;

    fn kind(result: Result<(), VolumeError>) -> Option<VolumeErrorKind> {
        result.err().map(|error| error.kind())
    }

    #[test]
    fn a_volume_of_the_requested_size_or_more_is_reused() {
        for existing in [GIB, GIB + 1, 100 * GIB, u64::MAX] {
            assert_eq!(kind(fits(existing, GIB, GIB)), None, "{existing}");
        }
    }

    #[test]
    fn five_percent_less_than_the_request_will_do_and_a_byte_less_will_not() {
        assert_eq!(kind(fits(95, 100, 10)), None);
        let small = VolumeErrorKind::TooSmall {
            have_bytes: 94,
            want_bytes: 100,
        };
        assert_eq!(kind(fits(94, 100, 10)), Some(small));
        // 95 % of u64::MAX is no whole number; the sum must not overflow either.
        let limit = u64::MAX / 20 * 19 + 15;
        assert_eq!(kind(fits(limit, u64::MAX, 1)), None);
        assert!(kind(fits(limit - 1, u64::MAX, 1)).is_some());
    }

    #[test]
    fn the_image_must_fit_however_small_the_request_is() {
        let small = VolumeErrorKind::TooSmall {
            have_bytes: 96,
            want_bytes: 97,
        };
        assert_eq!(kind(fits(96, 1, 97)), Some(small));
        assert_eq!(kind(fits(96, 100, 96)), None);
    }

    #[test]
    fn the_error_names_both_sizes() {
        let text = fits(GIB, 2 * GIB, 1).unwrap_err().to_string();
        assert!(text.contains("1 GiB") && text.contains("2 GiB"), "{text}");
    }
}
