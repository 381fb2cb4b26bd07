//! What all copies share.

use anyhow::{Context as _, ensure};
use lvp_image::copy::Engine;
use lvp_image::sandbox::{Parts, Sandbox};

use crate::cmd::Launcher;
use crate::config::SandboxUse;
use crate::error::chain;
use crate::threads::blocking;

/// The engine of all copies, with the sandbox in which it decodes.
pub(super) async fn new(wanted: SandboxUse, launcher: Option<Launcher>) -> anyhow::Result<Engine> {
    let least = match wanted {
        SandboxUse::Off => return Ok(Engine::new()),
        SandboxUse::Auto => Parts::NONE,
        SandboxUse::Require => Parts::ESSENTIAL,
    };
    let Some(launcher) = launcher else {
        ensure!(
            wanted == SandboxUse::Auto,
            "This program cannot be the process that image.sandbox requires"
        );
        return Ok(Engine::new());
    };
    let started = blocking(move || Sandbox::start(Box::new(launcher), least)).await?;
    match started {
        Ok(sandbox) => {
            let missing = Parts::ESSENTIAL.without(sandbox.parts());
            if missing == Parts::NONE {
                let parts = sandbox.parts().to_string();
                tracing::info!(
                    component = "daemon",
                    parts,
                    "Images are decoded in a sandbox"
                );
            } else {
                let missing = missing.to_string();
                tracing::warn!(
                    component = "daemon",
                    missing,
                    "The sandbox in which images are decoded is incomplete"
                );
            }
            Ok(Engine::with_sandbox(sandbox))
        }
        Err(error) if wanted == SandboxUse::Auto => {
            let error = chain(&error);
            tracing::warn!(
                component = "daemon",
                error,
                "Images are decoded in the daemon's own process (image.sandbox: auto)"
            );
            Ok(Engine::new())
        }
        Err(error) => Err(error).context("Images cannot be decoded as image.sandbox requires"),
    }
}
