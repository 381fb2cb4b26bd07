//! Turns libvirt's errors into the daemon's.

use virt::error::ErrorNumber;

use super::{LibvirtError, LibvirtErrorKind};

/// An error from libvirt, and what was being done.
pub(super) fn wrap(doing: &str, error: &virt::error::Error) -> LibvirtError {
    let code = error.code();
    let kind = if [ErrorNumber::NoStoragePool, ErrorNumber::NoStorageVolume]
        .iter()
        .any(|number| code == (*number).into())
    {
        LibvirtErrorKind::NotFound
    } else if [
        ErrorNumber::NoConnect,
        ErrorNumber::InvalidConn,
        ErrorNumber::Rpc,
        ErrorNumber::SystemError,
    ]
    .iter()
    .any(|number| code == (*number).into())
    {
        LibvirtErrorKind::Down
    } else {
        LibvirtErrorKind::Failed
    };
    LibvirtError::new(kind, format!("{doing} failed: {}", error.message()))
}
