//! The daemon as operators meet it: the real binary as a process, a real S3 server, real files.

mod access;
mod api;
mod bad_input;
mod block;
mod cache;
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
mod packaging;
mod provision;
mod reconcile;
mod shutdown;
mod support;
mod systemd;
mod torture;
mod traces;
