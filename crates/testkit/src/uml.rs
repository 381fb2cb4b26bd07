//! Real LVM without touching the host's: user-mode Linux, a kernel that runs as a program.

use std::path::Path;

/// Where Debian's package has the kernel's modules.
const MODULES: &str = "/usr/lib/uml/modules";

/// Whether the kernel's modules are here; its programs are checked by name.
pub(crate) fn check() -> Result<(), String> {
    match Path::new(MODULES).is_dir() {
        true => Ok(()),
        false => Err(format!("{MODULES} does not exist")),
    }
}
