//! The daemon as operators meet it: the real binary as a process, a real S3 server, real files.

mod access;
mod api;
mod bad_input;
mod block;
mod cache;
mod certificates;
mod crash;
mod database;
mod deploy;
mod faults;
mod full;
mod jobs;
mod libvirt;
mod logs;
mod lvm;
mod metrics;
mod one_device;
mod progress;
mod prometheus;
mod provision;
mod reconcile;
mod shutdown;
mod sinks;
mod support;
mod torture;
mod traces;
