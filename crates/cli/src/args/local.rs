//! Arguments of the commands for tokens and certificates, which need no daemon.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    New(TokenArgs),
}

/// Make a token, and print its line for the tokens file
///
/// Nothing is sent: append the line to the file that the daemon's
/// server.api_tokens_file names; the daemon reloads it by itself. With -o name,
/// only the token is printed.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// Name of the token's holder, for the daemon's audit log
    #[arg(long, value_name = "NAME", default_value = "lvpctl", value_parser = crate::commands::parse_name)]
    pub(crate) name: String,

    /// What the token allows
    #[arg(long, value_enum, default_value_t)]
    pub(crate) role: TokenRole,
}

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum TokenRole {
    /// Everything
    #[default]
    Provision,
    /// Reading only
    Read,
}

/// What to do with certificates.
#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    Init(CertInitArgs),
}

/// Make a certificate authority, and a server's and a client's certificate
///
/// For sites without an authority of their own. Writes ca, server and client,
/// each as .pem (certificate) and .key. Existing files are not overwritten.
#[derive(Debug, Args)]
pub(crate) struct CertInitArgs {
    /// The directory for the files; created if absent
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,

    /// Name or address of the server; may be repeated
    /// [default: localhost, 127.0.0.1 and ::1]
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Vec<String>,

    /// Name of the client, for the daemon's audit log
    #[arg(long, value_name = "NAME", default_value = "lvpctl")]
    pub(crate) client: String,

    /// How long the server's and the client's certificates are valid
    #[arg(long, default_value_t = 825, value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub(crate) days: u16,
}
