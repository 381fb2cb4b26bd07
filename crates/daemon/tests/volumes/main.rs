//! What every back end of volumes promises, on directories. LVM runs the same suite in user-mode Linux
//! (the binary `lvm`).

#![expect(
    clippy::unwrap_used,
    reason = "in helpers too, a step that fails is a test that fails"
)]

#[path = "contract/clones.rs"]
mod clones;
mod contract;
mod directory;
mod sharing;

use directory::Directory;
use lvp_testkit::require::require;

/// A test for each promise, with a directory of its own.
macro_rules! on_directories {
    ($($module:ident :: $name:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                contract::$module::$name(&Directory::new()).await;
            }
        )*
    };
}

contract::each!(on_directories);

/// A test for each promise of those whose files share extents, on a file system of each kind.
macro_rules! on_file_systems {
    ($($module:ident :: $name:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                for kind in ["xfs", "btrfs"] {
                    if require(kind) {
                        $module::$name(&Directory::on(kind)).await;
                    }
                }
            }
        )*
    };
}

clones::each_of_clones!(on_file_systems);
