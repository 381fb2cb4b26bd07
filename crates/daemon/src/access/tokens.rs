//! The tokens file: one token a line.
//!
//! ```text
//! # comment
//! TOKEN
//! NAME:TOKEN
//! NAME:ROLE:TOKEN
//! ```
//!
//! ROLE is `read` or `provision`; a token without a role may do everything. Text between two colons
//! that is not a role belongs to the token, so that tokens with colons keep their meaning. Only
//! digests of the tokens are kept in memory.

use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use super::strength;
use crate::files;

/// Largest tokens file: room for thousands.
const FILE_MAX_BYTES: u64 = 1 << 20; // 1 MiB

/// The permission bit by which every user of the host could read the file.
const WORLD_ACCESS: u32 = 0o007;

/// What a credential allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// May read.
    Read,
    /// May do everything.
    Provision,
}

/// Why a tokens file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokensError {
    /// The file cannot be read.
    #[error("Cannot read the tokens file {} (server.api_tokens_file)", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Every user of the host may read it.
    #[error(
        "The tokens file {} is open to every user of this host: remove that permission with 'chmod o=', and replace the tokens",
        .0.display()
    )]
    Exposed(PathBuf),
    /// It has no token in it.
    #[error(
        "There is no token in {} (server.api_tokens_file): 'lvpctl token new' makes one",
        .0.display()
    )]
    Empty(PathBuf),
    /// It is too large.
    #[error("The tokens file {} is larger than {FILE_MAX_BYTES} bytes: is it the right one?", .0.display())]
    Large(PathBuf),
    /// A line that cannot be a token.
    #[error("Line {line} of the tokens file {} cannot be used: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong. Never quotes the line.
        reason: &'static str,
    },
    /// A token that could be guessed.
    #[error(
        "The token {name} in line {line} of the tokens file {} could be guessed: replace it with one from \
         'lvpctl token new --name {name}', here and in its clients",
        path.display()
    )]
    Weak {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The token's name.
        name: String,
    },
}

/// What is wrong with a line.
#[derive(Debug)]
enum Wrong {
    /// It does not have the form of a token.
    Form(&'static str),
    /// The token of this name could be guessed.
    Weak(String),
}

/// The tokens in force.
#[derive(Debug, Default)]
pub(super) struct Tokens(Vec<Token>);

#[derive(Debug)]
struct Token {
    name: String,
    role: Role,
    digest: [u8; 32],
}

impl Tokens {
    /// Reads and checks the file.
    pub(super) fn read(path: &Path) -> Result<Self, TokensError> {
        let failed = |source| TokensError::Read {
            path: path.to_owned(),
            source,
        };
        let file = files::open_regular(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode();
        if mode & WORLD_ACCESS != 0 {
            return Err(TokensError::Exposed(path.to_owned()));
        }
        let mut text = String::new();
        let read = file
            .take(FILE_MAX_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(failed)?;
        if u64::try_from(read).is_ok_and(|read| read > FILE_MAX_BYTES) {
            return Err(TokensError::Large(path.to_owned()));
        }
        let tokens = Self::parse(&text).map_err(|(line, wrong)| {
            let path = path.to_owned();
            match wrong {
                Wrong::Form(reason) => TokensError::Line { path, line, reason },
                Wrong::Weak(name) => TokensError::Weak { path, line, name },
            }
        })?;
        if tokens.0.is_empty() {
            return Err(TokensError::Empty(path.to_owned()));
        }
        Ok(tokens)
    }

    fn parse(text: &str) -> Result<Self, (usize, Wrong)> {
        let mut tokens = Vec::new();
        // Some editors begin a file with a byte order mark.
        let text = text.trim_start_matches('\u{feff}');
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, role, token) = split(line);
            let name = match name {
                Some("") => {
                    return Err((number, Wrong::Form("the name before the colon is missing")));
                }
                Some(name) => name.to_owned(),
                None => format!("line-{number}"),
            };
            if token.is_empty() {
                return Err((number, Wrong::Form("the token after the colon is missing")));
            }
            if token.contains(|c: char| c.is_whitespace() || !c.is_ascii() || c.is_control()) {
                return Err((number, Wrong::Form("a token is ASCII without spaces")));
            }
            if !strength::is_hopeless_to_guess(token) {
                return Err((number, Wrong::Weak(name)));
            }
            tokens.push(Token {
                name,
                role,
                digest: digest(token.as_bytes()),
            });
        }
        Ok(Self(tokens))
    }

    /// The number of tokens.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The name and the role of a token. A wrong token takes as long as any correct one: all
    /// digests, which have the same length, are compared without a branch.
    pub(super) fn find(&self, token: &[u8]) -> Option<(&str, Role)> {
        let digest = digest(token);
        // An index one past the end means "no match".
        let none = u64::try_from(self.0.len()).unwrap_or(u64::MAX);
        let mut found = none;
        for (index, known) in (0u64..).zip(&self.0) {
            let equal: Choice = known.digest.ct_eq(&digest);
            found.conditional_assign(&index, equal);
        }
        let token = self.0.get(usize::try_from(found).ok()?)?;
        Some((&token.name, token.role))
    }
}

/// A line's name, role and token.
fn split(line: &str) -> (Option<&str>, Role, &str) {
    let Some((name, rest)) = line.split_once(':') else {
        return (None, Role::Provision, line);
    };
    let name = Some(name.trim());
    match rest.split_once(':') {
        Some(("read", token)) => (name, Role::Read, token),
        Some(("provision", token)) => (name, Role::Provision, token),
        _ => (name, Role::Provision, rest.trim()),
    }
}

fn digest(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn every_form_of_a_line_is_read() {
        let tokens = Tokens::parse(
            "# a comment\n\n  bare-token-of-good-length  \nci: named-token-of-good-length\n\
             grafana:read:read-token-of-good-length\nops:provision:prov-token-of-good-length\n\
             old:with:colons:in:the:token\n",
        )
        .expect("all lines are usable");
        for (token, expected) in [
            (
                "bare-token-of-good-length",
                Some(("line-3", Role::Provision)),
            ),
            ("named-token-of-good-length", Some(("ci", Role::Provision))),
            ("read-token-of-good-length", Some(("grafana", Role::Read))),
            ("prov-token-of-good-length", Some(("ops", Role::Provision))),
            ("with:colons:in:the:token", Some(("old", Role::Provision))),
            ("read:read-token-of-good-length", None),
            ("ci", None),
            ("", None),
            ("# a comment", None),
        ] {
            assert_eq!(tokens.find(token.as_bytes()), expected, "{token:?}");
        }
    }

    #[test]
    fn unusable_lines_are_named_by_number_and_never_quoted() {
        for (text, line) in [
            (":token", 1),
            ("# a comment\nname:", 2),
            ("name:read:", 1),
            ("two words", 1),
            ("\nname:t\u{f6}ken", 2),
        ] {
            let (found, wrong) = Tokens::parse(text).map(|_| ()).expect_err(text);
            assert_eq!(found, line, "{text:?}");
            let Wrong::Form(reason) = wrong else {
                panic!("{text:?}: {wrong:?}");
            };
            assert!(!reason.contains("words"), "{reason}");
        }
    }

    #[test]
    fn a_token_that_could_be_guessed_is_refused_by_its_name() {
        let mut file = tempfile::NamedTempFile::new().expect("there is room");
        writeln!(
            file,
            "good:0e5a-9d1c-77b2-4f68-a3\nold-cron:provision:hunter2\n"
        )
        .expect("it is written");
        let error = Tokens::read(file.path())
            .map(|_| ())
            .expect_err("it is weak")
            .to_string();
        assert!(error.contains("The token old-cron in line 2"), "{error}");
        assert!(
            error.contains("lvpctl token new --name old-cron"),
            "{error}"
        );
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_file_without_tokens_or_open_to_all_is_refused() {
        let mut file = tempfile::NamedTempFile::new().expect("there is room");
        let refused = |file: &tempfile::NamedTempFile| Tokens::read(file.path()).map(|_| ());
        assert!(matches!(refused(&file), Err(TokensError::Empty(_))));
        writeln!(file, "# nothing but a comment").expect("it is written");
        assert!(matches!(refused(&file), Err(TokensError::Empty(_))));
        writeln!(file, "ci:9f3c0123456789abcdef0123456789ab").expect("it is written");
        assert!(refused(&file).is_ok());
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(file.path(), open).expect("it is ours");
        assert!(matches!(refused(&file), Err(TokensError::Exposed(_))));
        let missing = Tokens::read("/nonexistent/tokens".as_ref()).map(|_| ());
        assert!(matches!(missing, Err(TokensError::Read { .. })));
    }
}
