//! Skeleton: the `image` subcommands.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use provisioner::image_cmd::{self, ImageCommand};

#[derive(Debug, Parser)]
#[command(name = "libvirt-volume-provisioner", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look at an image, or convert it
    #[command(subcommand)]
    Image(ImageCommand),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to be told when the terminal is gone.
            error.print().ok();
            let code = if error.use_stderr() {
                image_cmd::EXIT_USAGE
            } else {
                image_cmd::EXIT_DONE
            };
            return ExitCode::from(code);
        }
    };
    match cli.command {
        Command::Image(command) => ExitCode::from(image_cmd::run(&command)),
    }
}
