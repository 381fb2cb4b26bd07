//! The connection to libvirtd.
//!
//! libvirt's calls block for as long as the daemon at the other end pleases. So all of them but
//! uploads are made by one thread of their own, and whoever asks waits for its answer with a
//! deadline. While the thread hangs in a call, further calls queue up, run into their deadlines and
//! are forgotten; there is never a second thread that could hang too. The connection is opened at
//! the first call and again after it was lost.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::oneshot;
use virt::connect::Connect;
use virt::error::ErrorNumber;
use virt::storage_pool::StoragePool;
use virt::sys;

use super::upload;
use super::{Disk, DiskSource, Hypervisor, LibvirtError, LibvirtErrorKind, Pool, Upload, disks_of};
use crate::volume::{InUse, VolumeError, VolumeErrorKind};

/// How long a call may take. Starting a pool scans its directory; all others take milliseconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The pauses before who uses a volume is asked again: a libvirtd that is being restarted, as by an
/// upgrade, is back within them. A call that ran into its time-out has waited enough.
const RESTART_PAUSES: [Duration; 4] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// Calls that may wait for the thread.
const QUEUE: usize = 64;

/// Where libvirt itself puts pools of images; a pool is made there when there is none of its name.
const POOLS_DIRECTORY: &str = "/var/lib/libvirt";

type Call = Box<dyn FnOnce(&mut Session) + Send>;

/// libvirt at one URI.
#[derive(Debug)]
pub struct Libvirt {
    uri: String,
    calls: SyncSender<Call>,
}

/// What the thread keeps.
struct Session {
    uri: String,
    connection: Option<Connect>,
}

impl Libvirt {
    /// Starts the thread; connects at the first call.
    pub fn start(uri: &str) -> std::io::Result<Self> {
        // What goes wrong comes back as errors; libvirt would print it as well.
        virt::error::clear_error_callback();
        let (calls, queue) = sync_channel(QUEUE);
        let session = Session {
            uri: uri.to_owned(),
            connection: None,
        };
        std::thread::Builder::new()
            .name("libvirt".to_owned())
            .spawn(move || session.run(&queue))?;
        Ok(Self {
            uri: uri.to_owned(),
            calls,
        })
    }

    /// Makes a call on the thread.
    async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Connect) -> Result<T, LibvirtError> + Send + 'static,
    ) -> Result<T, LibvirtError> {
        let (answer, answered) = oneshot::channel();
        let call: Call = Box::new(move |session| {
            // Nobody waits any more: the deadline has passed.
            if answer.is_closed() {
                return;
            }
            let result = session
                .connection()
                .and_then(|connection| call(&connection));
            // Whoever asked may have given up in the meantime.
            answer.send(result).ok();
        });
        let down = |what: &str| {
            LibvirtError::new(
                LibvirtErrorKind::Down,
                format!("libvirt at {} {what}: is libvirtd well?", self.uri),
            )
        };
        self.calls
            .try_send(call)
            .map_err(|_| down("does not answer, and too many calls wait for it"))?;
        match tokio::time::timeout(CALL_TIMEOUT, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(down("gave no answer, as the thread that called it crashed")),
            Err(_) => Err(down(&format!(
                "did not answer within {} s",
                CALL_TIMEOUT.as_secs()
            ))),
        }
    }
}

#[async_trait]
impl Hypervisor for Libvirt {
    async fn probe(&self) -> Result<(), LibvirtError> {
        let ask = |connection: &Connect| {
            connection
                .lib_version()
                .map_err(|error| wrap("Asking libvirt", &error))
        };
        self.call(ask).await.map(|_| ())
    }

    async fn pool(&self, name: &str) -> Result<Option<Pool>, LibvirtError> {
        let name = name.to_owned();
        self.call(move |connection| describe_pool(connection, &name))
            .await
    }

    async fn pool_directory(&self, pool: &str) -> Result<PathBuf, LibvirtError> {
        let pool = pool.to_owned();
        self.call(move |connection| pool_directory(connection, &pool))
            .await
    }

    async fn upload(&self, upload: Upload) -> Result<(), LibvirtError> {
        // A connection of its own: an upload lasts as long as its client takes to send.
        let uri = self.uri.clone();
        let done = tokio::task::spawn_blocking(move || {
            let connection = open(&uri)?;
            upload::write(&connection, upload)
        });
        done.await.unwrap_or_else(|_| {
            Err(LibvirtError::new(
                LibvirtErrorKind::Failed,
                "The upload crashed: see the daemon's log",
            ))
        })
    }
}

#[async_trait]
impl InUse for Libvirt {
    async fn user_of(&self, paths: &[PathBuf]) -> Result<Option<String>, VolumeError> {
        let asked = Instant::now();
        let mut pauses = RESTART_PAUSES.iter();
        loop {
            let paths = paths.to_owned();
            let user = self.call(move |connection| {
                let found = users(connection, &paths)?.into_iter().next();
                Ok(found.map(|user| format!("domain {}", user.domain)))
            });
            let error = match user.await {
                Ok(user) => return Ok(user),
                Err(error) => error,
            };
            match pauses.next() {
                Some(pause)
                    if error.kind == LibvirtErrorKind::Down && asked.elapsed() < CALL_TIMEOUT =>
                {
                    tracing::warn!(component = "libvirt", %error, ?pause, "Asking libvirt again");
                    tokio::time::sleep(*pause).await;
                }
                _ => {
                    let message = "Whether a domain uses the volume cannot be told";
                    let kind = VolumeErrorKind::DependencyDown;
                    return Err(VolumeError::new(kind, message).caused_by(error));
                }
            }
        }
    }
}

impl Session {
    fn run(mut self, queue: &Receiver<Call>) {
        while let Ok(call) = queue.recv() {
            call(&mut self);
        }
    }

    /// The connection, opened again when it was lost.
    fn connection(&mut self) -> Result<Connect, LibvirtError> {
        // Asked, since nobody watches the socket meanwhile: libvirt itself takes the connection to a
        // libvirtd that was restarted for alive until a call has failed on it.
        if let Some(connection) = &self.connection
            && connection.lib_version().is_ok()
        {
            return Ok(connection.clone());
        }
        let connection = open(&self.uri)?;
        Ok(self.connection.insert(connection).clone())
    }
}

fn open(uri: &str) -> Result<Connect, LibvirtError> {
    Connect::open(Some(uri)).map_err(|error| {
        LibvirtError::new(
            LibvirtErrorKind::Down,
            format!(
                "Cannot connect to libvirt at {uri}: {}: is libvirtd running, and is this user in \
                 the group libvirt?",
                error.message()
            ),
        )
    })
}

/// An error of libvirt's with what was being done.
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

fn pool_directory(connection: &Connect, name: &str) -> Result<PathBuf, LibvirtError> {
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
                "The pool {name} is no directory that images can be kept in: set libvirt.pool to a \
                 pool of type dir, fs or netfs, or set cache.dir"
            ),
        )
    })
}

fn describe_pool(connection: &Connect, name: &str) -> Result<Option<Pool>, LibvirtError> {
    let pool = match connection.lookup_storage_pool_by_name(name) {
        Ok(pool) => pool,
        Err(error) => match wrap("Looking up the pool", &error) {
            missing if missing.kind == LibvirtErrorKind::NotFound => return Ok(None),
            error => return Err(error),
        },
    };
    let failed = |error| wrap(&format!("Asking for the pool {name}"), &error);
    let xml = pool.xml_desc(0).map_err(failed)?;
    Ok(Some(Pool {
        is_active: pool.is_active().map_err(failed)?,
        starts_itself: pool.autostart().map_err(failed)?,
        directory: target_directory(&xml),
    }))
}

/// The directory of a pool that has one.
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
            format!("There is no pool {name:?}, and the name cannot be a directory's: define it"),
        ));
    }
    let path = format!("{POOLS_DIRECTORY}/{name}");
    let xml =
        format!("<pool type='dir'><name>{name}</name><target><path>{path}</path></target></pool>");
    let pool = connection
        .define_storage_pool_xml(&xml, 0)
        .map_err(|error| wrap(&format!("Defining the pool {name}"), &error))?;
    // Makes the directory, and takes one that is there.
    pool.build(0)
        .map_err(|error| wrap(&format!("Building the pool {name}"), &error))?;
    pool.set_autostart(true)
        .map_err(|error| wrap(&format!("Making the pool {name} start by itself"), &error))?;
    tracing::info!(component = "libvirt", pool = name, path, "Pool defined");
    Ok(pool)
}

/// A running domain with one of the paths.
pub(super) struct User {
    pub(super) domain: String,
    pub(super) disk: Disk,
}

/// The running domains' disks that use any of the paths.
pub(super) fn users(connection: &Connect, paths: &[PathBuf]) -> Result<Vec<User>, LibvirtError> {
    let domains = connection
        .list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        .map_err(|error| wrap("Listing the running domains", &error))?;
    let wanted: Vec<_> = paths.iter().map(|path| Place::of(path)).collect();
    let mut users = Vec::new();
    for domain in domains {
        let xml = match domain.xml_desc(0) {
            Ok(xml) => xml,
            // It has ended since it was listed.
            Err(error) if error.code() == ErrorNumber::NoDomain.into() => continue,
            Err(error) => return Err(wrap("Describing a running domain", &error)),
        };
        let name = domain
            .name()
            .map_err(|error| wrap("Asking for a domain's name", &error))?;
        let disks = disks_of(&xml).map_err(|error| {
            LibvirtError::new(
                LibvirtErrorKind::Failed,
                format!("The description of domain {name} cannot be read: {error}"),
            )
        })?;
        for disk in disks {
            let mut places = disk.sources.iter().filter_map(|source| match source {
                DiskSource::Path(path) => Some(Place::of(Path::new(path))),
                // A volume that is gone is nobody's path.
                DiskSource::Volume { pool, volume } => {
                    let pool = connection.lookup_storage_pool_by_name(pool).ok()?;
                    let volume = pool.lookup_storage_vol_by_name(volume).ok()?;
                    Some(Place::of(Path::new(&volume.path().ok()?)))
                }
            });
            if places.any(|place| wanted.iter().any(|wanted| wanted.is(&place))) {
                users.push(User {
                    domain: name.clone(),
                    disk,
                });
            }
        }
    }
    Ok(users)
}

/// What a path leads to: two names of one device or file are the same place.
struct Place {
    path: PathBuf,
    /// A device's number, or a file's device and inode.
    object: Option<(bool, u64, u64)>,
}

impl Place {
    fn of(path: &Path) -> Self {
        let object = fs::metadata(path).ok().map(|found| {
            if found.file_type().is_block_device() {
                (true, found.rdev(), 0)
            } else {
                (false, found.dev(), found.ino())
            }
        });
        Self {
            path: path.to_owned(),
            object,
        }
    }

    fn is(&self, other: &Self) -> bool {
        self.path == other.path || (self.object.is_some() && self.object == other.object)
    }
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

    #[test]
    fn two_names_of_one_file_are_one_place() {
        let directory = tempfile::tempdir().expect("there is room");
        let (file, link) = (directory.path().join("a"), directory.path().join("b"));
        fs::write(&file, "x").expect("it is written");
        std::os::unix::fs::symlink(&file, &link).expect("it is linked");
        let other = directory.path().join("c");
        fs::write(&other, "x").expect("it is written");
        assert!(Place::of(&file).is(&Place::of(&link)));
        assert!(!Place::of(&file).is(&Place::of(&other)));
        let missing = Path::new("/nonexistent/a");
        assert!(Place::of(missing).is(&Place::of(missing)));
        assert!(!Place::of(missing).is(&Place::of(Path::new("/nonexistent/b"))));
    }

    #[tokio::test]
    async fn the_test_driver_answers_and_has_its_pool() {
        let libvirt = Libvirt::start("test:///default").expect("the thread starts");
        libvirt.probe().await.expect("it answers");
        let directory = libvirt.pool_directory("default-pool").await;
        assert_eq!(directory.expect("it has one"), Path::new("/default-pool"));
        let made = libvirt.pool_directory("fresh").await;
        assert_eq!(
            made.expect("it is made"),
            Path::new("/var/lib/libvirt/fresh")
        );
        let refused = libvirt.pool_directory("../etc").await;
        let refused = refused.expect_err("it is no name of a directory");
        assert_eq!(refused.kind, LibvirtErrorKind::NotFound, "{refused}");
        let unused = libvirt.user_of(&["/dev/vg0/none".into()]).await;
        assert_eq!(unused.expect("it can be told"), None);
    }

    #[tokio::test]
    async fn the_disk_of_the_test_drivers_running_domain_is_in_use() {
        let libvirt = Libvirt::start("test:///default").expect("the thread starts");
        let used = libvirt.user_of(&["/guest/diskimage1".into()]).await;
        assert_eq!(
            used.expect("it can be told").as_deref(),
            Some("domain test")
        );
    }

    /// A host of the test driver with a running domain that has one volume as its disk and another
    /// in its CD-ROM drive.
    const HOST: &str = r"<node><pool type='dir'><name>seeds</name>
      <target><path>/srv/seeds</path></target>
      <volume><name>disk.img</name><capacity>1048576</capacity>
        <target><path>/srv/seeds/disk.img</path></target></volume>
      <volume><name>seed.iso</name><capacity>1048576</capacity>
        <target><path>/srv/seeds/seed.iso</path></target></volume>
      <volume><name>free.iso</name><capacity>1048576</capacity>
        <target><path>/srv/seeds/free.iso</path></target></volume></pool>
      <domain type='test'><name>web</name><memory>65536</memory><os><type>hvm</type></os><devices>
        <disk type='file' device='disk'><source file='/srv/seeds/disk.img'/><target dev='vda'/></disk>
        <disk type='volume' device='cdrom'><source pool='seeds' volume='seed.iso'/>
          <target dev='hdc'/><readonly/></disk></devices></domain></node>";

    #[tokio::test]
    async fn a_running_domains_disk_takes_no_upload_and_its_cd_rom_does() {
        let home = tempfile::tempdir().expect("there is room");
        let file = home.path().join("host.xml");
        fs::write(&file, HOST).expect("it is written");
        let uri = format!("test://{}", file.display());
        let libvirt = Libvirt::start(&uri).expect("the thread starts");
        let upload = async |volume: &str, size_bytes| {
            let (_chunks, content) = tokio::sync::mpsc::channel(1);
            let (pool, volume) = ("seeds".to_owned(), volume.to_owned());
            let ended = libvirt.upload(Upload {
                pool,
                volume,
                size_bytes,
                content,
            });
            ended.await.expect_err("this driver writes no volumes")
        };
        let disk = upload("disk.img", 10).await;
        assert_eq!(disk.kind, LibvirtErrorKind::InUse, "{disk}");
        assert!(disk.to_string().contains("domain web"), "{disk}");
        assert_eq!(
            upload("free.iso", 2 << 20).await.kind,
            LibvirtErrorKind::TooLarge
        );
        assert_eq!(
            upload("none.iso", 10).await.kind,
            LibvirtErrorKind::NotFound
        );
        // Past the checks: what the driver says is that it cannot write.
        for volume in ["seed.iso", "free.iso"] {
            let error = upload(volume, 10).await;
            assert_eq!(error.kind, LibvirtErrorKind::Failed, "{error}");
            assert!(error.to_string().contains("not supported"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_libvirt_that_is_not_there_is_an_error_that_says_so() {
        let uri = "qemu+unix:///system?socket=/nonexistent/libvirt-sock";
        let libvirt = Libvirt::start(uri).expect("the thread starts");
        let error = libvirt.probe().await.expect_err("nobody is there");
        assert_eq!(error.kind, LibvirtErrorKind::Down, "{error}");
        assert!(error.to_string().contains(uri), "{error}");
        let error = libvirt.user_of(&["/dev/x".into()]).await;
        let error = error.expect_err("it cannot be told");
        assert_eq!(error.kind(), VolumeErrorKind::DependencyDown);
    }
}
