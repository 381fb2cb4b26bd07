//! What every back end of volumes promises, on directories. LVM runs the same suite in user-mode Linux
//! (the binary `lvm`).

#![expect(
    clippy::unwrap_used,
    reason = "in helpers too, a step that fails is a test that fails"
)]

mod contract;
mod directory;

use directory::Directory;

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
