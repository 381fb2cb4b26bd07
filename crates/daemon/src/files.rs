//! Small files that others create: the configuration, tokens, certificates, keys.
//!
//! Any of them may have been replaced by something else. Opening a FIFO blocks until another process writes to it,
//! opening a device may have side effects, and a file may be larger than memory. So a file is opened without
//! blocking, must be a regular file, and is read up to a limit.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, major, minor};

/// Largest file with certificates or a key. An operating system's complete set of CAs takes 250 KiB.
pub(crate) const PEM_MAX_BYTES: u64 = 4 << 20; // 4 MiB

/// Whether an operation failed because there was no free space.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// The path of a file beside another: the same name with a suffix.
pub(crate) fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name: OsString = path.into();
    name.push(ending);
    name.into()
}

/// Opens a regular file, and nothing else, for reading. Never blocks.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let file = open(path)?;
    match kind(&file)? {
        None => Ok(file),
        Some(kind) => Err(not_regular(kind)),
    }
}

/// Reads a regular file of at most this many bytes.
pub(crate) fn read(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    bytes(open_regular(path)?, max_bytes)
}

/// Reads a text likewise; `/dev/null` counts as an empty text.
pub(crate) fn read_text_or_null(path: &Path, max_bytes: u64) -> io::Result<String> {
    let file = open(path)?;
    let bytes = match kind(&file)? {
        None => bytes(file, max_bytes)?,
        Some(_) if is_null(&file)? => Vec::new(),
        Some(kind) => return Err(not_regular(kind)),
    };
    String::from_utf8(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "It is not UTF-8 text"))
}

/// Opens a file for appending, and creates it if it does not exist. A device such as `/dev/null` is accepted; a
/// FIFO that nobody reads is refused.
pub(crate) fn append(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = OpenOptions::new()
        .create(true)
        .append(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    // A FIFO without a reader, or a socket.
    let opened = opened.map_err(|error| match error.raw_os_error() {
        Some(code) if code == rustix::io::Errno::NXIO.raw_os_error() => {
            not_regular("a FIFO or a socket")
        }
        _ => error,
    });
    let file = opened?;
    match kind(&file)? {
        None | Some("a character device") => Ok(file),
        Some(kind) => Err(not_regular(kind)),
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

fn bytes(file: File, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more shows that the file is longer.
    file.take(max_bytes.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|read| read > max_bytes) {
        let message = format!("It has more than {max_bytes} bytes: is it the right file?");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

/// What kind of file it is, if it is not a regular one.
fn kind(file: &File) -> io::Result<Option<&'static str>> {
    let kind = file.metadata()?.file_type();
    Ok(match kind {
        kind if kind.is_file() => None,
        kind if kind.is_dir() => Some("a directory"),
        kind if kind.is_fifo() => Some("a FIFO"),
        kind if kind.is_char_device() => Some("a character device"),
        kind if kind.is_block_device() => Some("a block device"),
        _ => Some("a socket"),
    })
}

/// Linux's Documentation/admin-guide/devices.txt: 1,3 is `/dev/null`.
fn is_null(file: &File) -> io::Result<bool> {
    let device = file.metadata()?.rdev();
    Ok((major(device), minor(device)) == (1, 3))
}

fn not_regular(kind: &str) -> io::Error {
    let message = format!("It is {kind}; it must be a regular file");
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn only_regular_files_within_the_limit_are_read() {
        let directory = tempfile::tempdir().expect("there is room");
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("file"), "12345").expect("it is written");
        mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("it is made");
        assert_eq!(read(&at("file"), 5).expect("it fits"), b"12345");
        for (path, max_bytes, expected) in [
            (at("file"), 4, "more than 4 bytes"),
            (at("fifo"), 5, "a FIFO"),
            (at(""), 5, "a directory"),
            ("/dev/zero".into(), 5, "a character device"),
            (at("missing"), 5, "No such file"),
        ] {
            let error = read(&path, max_bytes).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
            let error = read_text_or_null(&path, max_bytes).expect_err(expected);
            assert!(error.to_string().contains(expected), "{error}");
        }
        let empty = read_text_or_null("/dev/null".as_ref(), 5).expect("it stands for nothing");
        assert_eq!(empty, "");
    }

    #[test]
    fn lines_go_to_files_and_devices_and_never_into_a_fifo() {
        let directory = tempfile::tempdir().expect("there is room");
        let at = |name: &str| directory.path().join(name);
        mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("it is made");
        assert!(append(&at("new")).is_ok());
        assert!(append("/dev/null".as_ref()).is_ok());
        let error = append(&at("fifo")).expect_err("nobody reads").to_string();
        assert!(error.contains("a FIFO"), "{error}");
        // With a reader at the other end, the open would succeed, and writing would block once the
        // pipe is full.
        let _reader = open(&at("fifo")).expect("reading never waits");
        let error = append(&at("fifo")).expect_err("it is no file").to_string();
        assert!(error.contains("a FIFO"), "{error}");
    }
}
