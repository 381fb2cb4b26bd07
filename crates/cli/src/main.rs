//! `lvpctl`, the command-line client of libvirt-volume-provisioner.
//!
//! `args` is the command line, `config` decides endpoint and credentials, `client` speaks HTTP, `follow` waits
//! for jobs, `commands` put these together, `output` and `progress` show the result.

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Cli;
use crate::exit::Exit;

mod args;
mod client;
mod commands;
mod config;
mod exit;
mod follow;
mod output;
mod progress;
#[cfg(test)]
mod reference;
mod sse;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are not errors; the reader may be gone.
            error.print().ok();
            let exit = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Success
            };
            return exit.into();
        }
    };
    // One thread is enough for one connection.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(cli)),
        Err(error) => Err(exit::Failure::new(
            Exit::Failed,
            format!("Cannot start: {error}"),
        )),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output::say(&format!("error: {failure}"));
            failure.exit.into()
        }
    }
}
