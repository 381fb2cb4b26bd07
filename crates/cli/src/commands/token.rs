//! `lvpctl token`: tokens for the daemon's tokens file. Nothing is sent.

use serde_json::json;

use crate::args::{TokenArgs, TokenRole};
use crate::exit::{Exit, Failure};
use crate::output::{self, Format, say};

/// Random bytes: 256 bits cannot be guessed.
const TOKEN_BYTES: usize = 32;

/// Lets scanners for leaked secrets recognise these tokens.
const PREFIX: &str = "lvp_";

pub(super) fn new(format: Format, args: &TokenArgs) -> Result<Exit, Failure> {
    let token = token();
    let role = match args.role {
        TokenRole::Provision => "provision",
        TokenRole::Read => "read",
    };
    let line = format!("{}:{role}:{token}", args.name);
    match format {
        Format::Json => output::print_json(&json!({
            "name": args.name, "role": role, "token": token, "line": line,
        }))?,
        Format::Name => output::print_line(&token)?,
        Format::Table => {
            output::print_line(&line)?;
            say(
                "Append this line to the daemon's tokens file; the part after the last colon is \
                 the token that the client uses",
            );
        }
    }
    Ok(Exit::Success)
}

fn token() -> String {
    let bytes: [u8; TOKEN_BYTES] = rand::random();
    bytes
        .iter()
        .fold(PREFIX.to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// A name that the daemon's log and the tokens file can hold.
pub(crate) fn parse_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
    if text.is_empty() || !text.chars().all(allowed) {
        return Err("letters, digits and . _ - @ are allowed".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_and_never_the_same() {
        let (one, other) = (token(), token());
        assert_ne!(one, other);
        assert_eq!(one.len(), PREFIX.len() + 2 * TOKEN_BYTES);
        assert!(one.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
    }

    #[test]
    fn names_have_no_colon_and_no_space() {
        assert!(parse_name("ci@host-1.example").is_ok());
        for name in ["", "a:b", "a b", "#a", "a\nb"] {
            assert!(parse_name(name).is_err(), "{name:?}");
        }
    }
}
