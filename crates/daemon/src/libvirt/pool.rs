//! Storage pools, in whose directories images may be kept.

use std::path::PathBuf;

use virt::connect::Connect;
use virt::storage_pool::StoragePool;

use super::failure::wrap;
use super::{LibvirtError, LibvirtErrorKind, Pool};

/// Where libvirt itself puts image pools. A pool is created here if none has its name.
const POOLS_DIRECTORY: &str = "/var/lib/libvirt";

/// The pool's directory. A missing pool is created, an inactive one is started.
pub(super) fn directory(connection: &Connect, name: &str) -> Result<PathBuf, LibvirtError> {
    let pool = match connection.lookup_storage_pool_by_name(name) {
        Ok(pool) => pool,
        Err(error) => match wrap("Looking up the pool", &error) {
            missing if missing.kind == LibvirtErrorKind::NotFound => define(connection, name)?,
            error => return Err(error),
        },
    };
    let doing = |what: &str| format!("{what} the pool {name}");
    if !pool
        .is_active()
        .map_err(|error| wrap(&doing("Asking for"), &error))?
    {
        pool.create(0)
            .map_err(|error| wrap(&doing("Starting"), &error))?;
        tracing::info!(component = "libvirt", pool = name, "Pool started");
    }
    let xml = pool
        .xml_desc(0)
        .map_err(|error| wrap(&doing("Describing"), &error))?;
    target_directory(&xml).ok_or_else(|| {
        LibvirtError::new(
            LibvirtErrorKind::Failed,
            format!(
                "The pool {name} is not a directory that images can be kept in: set libvirt.pool to a \
                 pool of type dir, fs or netfs, or set cache.dir"
            ),
        )
    })
}

/// The state of the pool, if it exists.
pub(super) fn describe(connection: &Connect, name: &str) -> Result<Option<Pool>, LibvirtError> {
    let pool = match connection.lookup_storage_pool_by_name(name) {
        Ok(pool) => pool,
        Err(error) => match wrap("Looking up the pool", &error) {
            missing if missing.kind == LibvirtErrorKind::NotFound => return Ok(None),
            error => return Err(error),
        },
    };
    let failed = |error| wrap(&format!("Reading the state of the pool {name}"), &error);
    let xml = pool.xml_desc(0).map_err(failed)?;
    Ok(Some(Pool {
        is_active: pool.is_active().map_err(failed)?,
        starts_itself: pool.autostart().map_err(failed)?,
        directory: target_directory(&xml),
    }))
}

/// The directory of a pool, if it has one.
fn target_directory(xml: &str) -> Option<PathBuf> {
    let document = roxmltree::Document::parse(xml).ok()?;
    let pool = document.root_element();
    if !matches!(pool.attribute("type"), Some("dir" | "fs" | "netfs")) {
        return None;
    }
    let child = |node: roxmltree::Node<'_, '_>, name: &str| {
        let found = node.children().find(|child| child.has_tag_name(name));
        found.map(|found| found.id())
    };
    let target = document.get_node(child(pool, "target")?)?;
    let path = document.get_node(child(target, "path")?)?;
    path.text().map(PathBuf::from)
}

fn define(connection: &Connect, name: &str) -> Result<StoragePool, LibvirtError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "+_.-".contains(c);
    if !name.chars().all(plain) || name.starts_with('.') {
        return Err(LibvirtError::new(
            LibvirtErrorKind::NotFound,
            format!(
                "There is no pool {name:?}, and it cannot be created because the name cannot be a directory's: define it in libvirt"
            ),
        ));
    }
    let path = format!("{POOLS_DIRECTORY}/{name}");
    let xml =
        format!("<pool type='dir'><name>{name}</name><target><path>{path}</path></target></pool>");
    let pool = connection
        .define_storage_pool_xml(&xml, 0)
        .map_err(|error| wrap(&format!("Defining the pool {name}"), &error))?;
    // Creates the directory, or accepts an existing one.
    pool.build(0)
        .map_err(|error| wrap(&format!("Building the pool {name}"), &error))?;
    pool.set_autostart(true)
        .map_err(|error| wrap(&format!("Setting the pool {name} to autostart"), &error))?;
    tracing::info!(component = "libvirt", pool = name, path, "Pool defined");
    Ok(pool)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pools_that_are_directories_have_one() {
        let xml = |kind: &str| {
            format!(
                "<pool type='{kind}'><name>x</name><source><path>/no</path></source><target><path>/srv/x</path></target></pool>"
            )
        };
        assert_eq!(target_directory(&xml("dir")), Some("/srv/x".into()));
        assert_eq!(target_directory(&xml("netfs")), Some("/srv/x".into()));
        assert_eq!(target_directory(&xml("logical")), None);
        assert_eq!(target_directory("<pool type='dir'/>"), None);
    }
}
