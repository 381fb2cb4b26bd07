//! How hard a token is to guess.
//!
//! A guess costs a request. At 10,000 requests a second, which is more than this daemon answers, 2^63 guesses take 29
//! million years, so no caller has to be locked out for guessing. A token that a person made up, however, is found with
//! a list of common ones. Random tokens are long and have many different characters, so those two properties are
//! required. A long token that was put together from words is not detected; `lvpctl token new` draws 256 random bits.

/// Least length, not counting repetitions.
const CHARACTERS_MIN: usize = 20;

/// Least number of bits, computed as if every character had been drawn from the set of those that
/// occur.
const BITS_MIN: f64 = 64.0;

/// Whether the token cannot be found by guessing.
pub(super) fn is_hopeless_to_guess(token: &str) -> bool {
    let part = unrepeated(token.as_bytes());
    let mut seen = [false; 256];
    for byte in part {
        if let Some(seen) = seen.get_mut(usize::from(*byte)) {
            *seen = true;
        }
    }
    let different = u16::try_from(seen.iter().filter(|seen| **seen).count()).unwrap_or(u16::MAX);
    let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
    part.len() >= CHARACTERS_MIN && f64::from(length) * f64::from(different).log2() >= BITS_MIN
}

/// The shortest part whose repetition is the text: `abab` is `ab` twice.
fn unrepeated(text: &[u8]) -> &[u8] {
    let lengths = 1..text.len();
    let length = lengths
        .filter(|length| text.len().is_multiple_of(*length))
        .find(|length| {
            let part = &text[..*length];
            text.chunks(*length).all(|other| other == part)
        });
    &text[..length.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_tokens_of_every_usual_kind_will_do_and_made_up_ones_will_not() {
        for token in [
            // lvpctl token new, openssl rand -hex 16, -base64 18, uuidgen, pwgen -s 24.
            "lvp_3f1b0a9c5d7e2f4861b8c0d9e7a6f5b43f1b0a9c5d7e2f4861b8c0d9e7a6f5b4",
            "93f1c07be2d64a58b0e1f7c29a3d6b84",
            "q8Zk3vX1mB7+tR5yLw0sHd2c",
            "2f6b1c9e-8d3a-4b7f-a1c0-5e9d7f3b2a64",
            "Vq8ZkP3vX1mB7tR5yLw0sHd2",
        ] {
            assert!(is_hopeless_to_guess(token), "{token}");
        }
        for token in [
            "",
            "hunter2",
            "change-me",
            "0123456789abcdef",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "abababababababababababababababababababab",
            "secretsecretsecretsecretsecret",
            "11112222111122221111222211112222",
        ] {
            assert!(!is_hopeless_to_guess(token), "{token}");
        }
    }
}
