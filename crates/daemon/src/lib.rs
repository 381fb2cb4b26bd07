//! Skeleton.
pub mod image_cmd;
