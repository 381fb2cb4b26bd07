//! The connection to libvirtd.
//!
//! Calls of libvirt block for as long as the daemon at the other end takes. So all calls except
//! uploads are made by one dedicated thread, and callers wait for the answer with a deadline. While
//! the thread hangs in a call, further calls queue up, reach their deadlines and are dropped; there
//! is never a second thread that could hang as well. The connection is opened for the first call,
//! and again after it was lost.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::oneshot;
use virt::connect::Connect;

use super::failure::wrap;
use super::users::users;
use super::{Hypervisor, LibvirtError, LibvirtErrorKind, Pool, Upload, pool, upload};
use crate::backoff::Backoff;
use crate::threads::blocking;
use crate::volume::{InUse, VolumeError, VolumeErrorKind};

/// Time limit of a call. Starting a pool scans its directory; all others take milliseconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The waits before asking again which domains use a volume. A libvirtd that is being restarted,
/// for instance by an upgrade, is back within them. A call that reached its deadline is not
/// repeated.
const RESTART_PAUSES: [Duration; 4] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// How many calls may wait for the thread.
const QUEUE: usize = 64;

type Call = Box<dyn FnOnce(&mut Session) + Send>;

/// libvirt at one URI.
#[derive(Debug)]
pub struct Libvirt {
    uri: String,
    calls: SyncSender<Call>,
}

/// The thread's state.
struct Session {
    uri: String,
    connection: Option<Connect>,
}

impl Libvirt {
    /// Starts the thread, which connects at the first call.
    pub fn start(uri: &str) -> std::io::Result<Self> {
        // Failures are returned as errors; by default libvirt would print them as well.
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
            // The caller has given up: its deadline has passed.
            if answer.is_closed() {
                return;
            }
            let result = session
                .connection()
                .and_then(|connection| call(&connection));
            // The caller may have given up meanwhile.
            answer.send(result).ok();
        });
        let down = |what: &str| {
            LibvirtError::new(
                LibvirtErrorKind::Down,
                format!("libvirt at {} {what}: check libvirtd", self.uri),
            )
        };
        self.calls
            .try_send(call)
            .map_err(|_| down("does not answer, and too many calls are waiting for it"))?;
        match tokio::time::timeout(CALL_TIMEOUT, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(down(
                "gave no answer because the thread that called it crashed",
            )),
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
        self.call(move |connection| pool::describe(connection, &name))
            .await
    }

    async fn pool_directory(&self, pool: &str) -> Result<PathBuf, LibvirtError> {
        let pool = pool.to_owned();
        self.call(move |connection| pool::directory(connection, &pool))
            .await
    }

    async fn upload(&self, upload: Upload) -> Result<(), LibvirtError> {
        // A connection of its own: an upload takes as long as its client takes to send.
        let uri = self.uri.clone();
        let done = blocking(move || {
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
        let mut backoff = Backoff::listed(RESTART_PAUSES.to_vec(), Duration::ZERO);
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
            match backoff.failed(None) {
                Some(pause)
                    if error.kind == LibvirtErrorKind::Down && asked.elapsed() < CALL_TIMEOUT =>
                {
                    tracing::warn!(component = "libvirt", %error, ?pause, "Asking libvirt again");
                    tokio::time::sleep(pause).await;
                }
                _ => {
                    let message = "Cannot find out whether a domain uses the volume";
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

    /// The connection, opened again if it was lost.
    fn connection(&mut self) -> Result<Connect, LibvirtError> {
        // libvirtd is asked, because nobody watches the socket between calls: libvirt considers the
        // connection to a restarted libvirtd alive until a call on it has failed.
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

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
        // The checks have passed: the error is the driver's, which cannot write.
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
