//! The image crate against real components: qemu-img as the oracle, loop devices, file systems.

#![cfg(test)]

mod engine_convert;
mod engine_copy;
mod engine_failure;
mod engine_resources;
mod engine_support;
mod engine_target;
mod engine_yielding;
mod formats;
mod hostile;
mod module_order;
mod parser_accept;
mod parser_clusters;
mod parser_disk;
mod parser_hand_made;
mod parser_layers;
mod parser_limits;
mod parser_random;
mod parser_reject;
mod parser_shared;
mod parser_streams;
mod parser_support;
mod parser_truncated;
mod unpack;
