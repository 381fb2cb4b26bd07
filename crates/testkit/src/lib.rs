//! Guards for the real components that the tests run against. Nothing here is shipped.

pub mod daemon;
pub mod docs;
pub mod fault;
pub mod inbox;
pub mod log_writes;
pub mod loopdev;
pub mod loopfs;
pub mod lvm;
pub mod module_order;
pub mod nats;
pub mod openssl;
pub mod port;
pub mod process;
pub mod rclone;
pub mod require;
pub mod s3;
pub mod scenarios;
pub mod signing;
pub mod stores;
pub mod tls;
pub mod tmpfs;
pub mod turn;
pub mod uml;
pub mod wire;
