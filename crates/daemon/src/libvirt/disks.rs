//! Which disks a domain's XML names.
//!
//! A disk has its own source, those of its backing chain, and that of a block job's mirror. All of
//! them are in use while the domain runs.

/// Where a disk's data is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSource {
    /// A file or a block device.
    Path(String),
    /// A storage volume by name.
    Volume {
        /// Its pool.
        pool: String,
        /// Its name.
        volume: String,
    },
}

/// One disk of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Whether it is a removable medium (CD-ROM or floppy), which the guest expects to change.
    pub is_removable: bool,
    /// Every file, device or volume that it reads or writes.
    pub sources: Vec<DiskSource>,
}

/// The disks in a domain's XML.
pub fn disks_of(domain_xml: &str) -> Result<Vec<Disk>, roxmltree::Error> {
    let document = roxmltree::Document::parse(domain_xml)?;
    let is = |name: &'static str| move |node: &roxmltree::Node<'_, '_>| node.has_tag_name(name);
    let domain = document.root_element();
    let disks = domain
        .children()
        .filter(is("devices"))
        .flat_map(|devices| devices.children().filter(is("disk")));
    Ok(disks
        .map(|disk| Disk {
            // A disk without the attribute is a hard disk.
            is_removable: matches!(disk.attribute("device"), Some("cdrom" | "floppy")),
            sources: disk
                .descendants()
                .filter(is("source"))
                .filter_map(source)
                .collect(),
        })
        .collect())
}

fn source(node: roxmltree::Node<'_, '_>) -> Option<DiskSource> {
    if let (Some(pool), Some(volume)) = (node.attribute("pool"), node.attribute("volume")) {
        return Some(DiskSource::Volume {
            pool: pool.to_owned(),
            volume: volume.to_owned(),
        });
    }
    let path = node.attribute("dev").or_else(|| node.attribute("file"))?;
    Some(DiskSource::Path(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = r#"<domain type='kvm' id='3'><name>web</name><devices>
      <disk type='block' device='disk'><source dev='/dev/vg0/web'/><target dev='vda'/></disk>
      <disk type='file'><source file='/over.qcow2'/>
        <backingStore type='file'><source file='/base.qcow2'/><backingStore/></backingStore></disk>
      <disk type='volume' device='cdrom'><source pool='cloud-init' volume='web.iso'/></disk>
      <disk type='network' device='disk'><source protocol='rbd' name='x/y'/></disk>
      <disk type='file' device='cdrom'><target dev='sda'/></disk>
      <filesystem><source dir='/srv'/></filesystem></devices></domain>"#;

    #[test]
    fn paths_volumes_and_backing_files_are_found() {
        let disks = disks_of(DOMAIN).expect("it is XML");
        let path = |path: &str| DiskSource::Path(path.to_owned());
        let removable: Vec<_> = disks.iter().map(|disk| disk.is_removable).collect();
        assert_eq!(removable, [false, false, true, false, true]);
        assert_eq!(disks[0].sources, [path("/dev/vg0/web")]);
        assert_eq!(disks[1].sources, [path("/over.qcow2"), path("/base.qcow2")]);
        let volume = DiskSource::Volume {
            pool: "cloud-init".to_owned(),
            volume: "web.iso".to_owned(),
        };
        assert_eq!(disks[2].sources, [volume]);
        assert!(disks[3].sources.is_empty() && disks[4].sources.is_empty());
    }

    #[test]
    fn invalid_xml_is_an_error_and_not_an_empty_list() {
        assert!(disks_of("<domain><devices>").is_err());
    }
}
