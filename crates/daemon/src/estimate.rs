//! Numbers of bytes in estimates, where a relative error of 2^-53 is of no consequence.

use std::time::Duration;

/// As a number to calculate with.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
pub fn to_f64(bytes: u64) -> f64 {
    bytes as f64
}

/// The whole number; 0 for what is not one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "not negative, and `as` ends at the limits of u64"
)]
pub fn to_bytes(bytes: f64) -> u64 {
    bytes.max(0.0) as u64
}

/// The rate at which so many bytes were moved; `least` is the shortest time that is believed.
pub fn per_second(bytes: u64, took: Duration, least: Duration) -> f64 {
    to_f64(bytes) / took.max(least).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_of_bytes_is_none() {
        assert_eq!([-1.0, f64::NAN, 0.9].map(to_bytes), [0, 0, 0]);
        assert_eq!(to_bytes(f64::INFINITY), u64::MAX);
        assert_eq!(to_bytes(to_f64(1 << 53)), 1 << 53);
    }

    #[test]
    fn a_rate_of_no_time_is_that_of_the_shortest() {
        let millisecond = Duration::from_millis(1);
        assert!((per_second(5, Duration::ZERO, millisecond) - 5_000.0).abs() < 1e-6);
        assert!((per_second(5, 10 * millisecond, millisecond) - 500.0).abs() < 1e-6);
    }
}
