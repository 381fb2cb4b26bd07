//! The real `lvpctl` as a process, against a scripted daemon.

mod fake;
mod lists;
mod requests;
mod terminal;
mod tls;
mod top;
mod verifying;
mod waiting;
