//! The process in which compressed images are decoded.

use lvp_image::sandbox::{Parts, Sandbox};

use super::Finding;
use crate::cmd::Launcher;
use crate::config::SandboxUse;
use crate::error::chain;
use crate::threads::blocking;

const CHECK: &str = "image.sandbox";

/// Starts one, and looks at what restricts it.
pub(super) async fn check(wanted: SandboxUse, launcher: Launcher) -> Finding {
    if wanted == SandboxUse::Off {
        return Finding::warn(
            CHECK,
            "Compressed images are decoded in the daemon's own process, which holds all credentials and disks",
            "Set image.sandbox to auto or require",
        );
    }
    let started = blocking(move || {
        let sandbox = Sandbox::start(Box::new(launcher), Parts::NONE)?;
        Ok::<_, lvp_image::Error>(sandbox.parts())
    });
    match started.await {
        Ok(Ok(parts)) => judge(wanted, parts),
        Ok(Err(error)) => cannot(wanted, chain(&error)),
        Err(crashed) => cannot(wanted, chain(&crashed)),
    }
}

fn judge(wanted: SandboxUse, parts: Parts) -> Finding {
    let missing = Parts::ESSENTIAL.without(parts);
    if missing == Parts::NONE {
        let absent = Parts::ALL.without(parts);
        let except = match absent == Parts::NONE {
            true => String::new(),
            false => format!("; not here: {absent}"),
        };
        return Finding::ok(
            CHECK,
            format!("Compressed images are decoded in a process with {parts}{except}"),
        );
    }
    let message = format!("The process that decodes images lacks: {missing}");
    let remedy = "Landlock and seccomp have to be in the kernel (5.13 or later, `lsm=` with landlock), and a container \
        has to allow their system calls";
    match wanted {
        SandboxUse::Require => Finding::fail(CHECK, message, remedy),
        SandboxUse::Auto | SandboxUse::Off => Finding::warn(CHECK, message, remedy),
    }
}

fn cannot(wanted: SandboxUse, why: String) -> Finding {
    let remedy = "Images are decoded in the daemon's own process until a process of their own can be started";
    match wanted {
        SandboxUse::Require => Finding::fail(
            CHECK,
            why,
            "The daemon does not start; set image.sandbox to auto if that is acceptable here",
        ),
        SandboxUse::Auto | SandboxUse::Off => Finding::warn(CHECK, why, remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn what_is_missing_is_named_and_fails_only_where_it_is_required() {
        let few = Parts::ALL.without(Parts::LANDLOCK);
        let auto = judge(SandboxUse::Auto, few);
        assert_eq!(auto.status, Status::Warn);
        assert!(auto.message.ends_with("lacks: Landlock"), "{auto:?}");
        assert_eq!(judge(SandboxUse::Require, few).status, Status::Fail);
        let service = judge(SandboxUse::Require, Parts::ESSENTIAL);
        assert_eq!(service.status, Status::Ok);
        assert!(service.message.contains("not here: a user"), "{service:?}");
    }
}
