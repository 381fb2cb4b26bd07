//! Asynchronous writes: io_submit(2).

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::ops::{Deref, Range};
use std::os::fd::AsRawFd;
use std::ptr;

use bytes::Bytes;

use super::error::offset;
use super::memory::AlignedBuf;

/// Memory that an asynchronous write reads from.
#[derive(Debug)]
pub(crate) enum Memory {
    /// It is reused afterwards.
    Own(AlignedBuf),
    /// It is returned to its owner.
    Shared(Bytes),
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(buffer) => buffer,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// Writes that the kernel carries out while the caller continues: io_submit(2). This works for
/// direct I/O; other writes are already complete when they are submitted.
#[derive(Debug)]
pub(crate) struct AsyncWrites {
    context: libc::c_ulong,
    /// By key; None if a key is free.
    batches: Vec<Option<Submitted>>,
    /// The number of writes in progress.
    in_flight: usize,
}

/// The writes of one call of [`AsyncWrites::submit`].
#[derive(Debug)]
struct Submitted {
    memory: Memory,
    /// None while a write is in progress.
    results: Vec<Option<io::Result<usize>>>,
}

/// The results of the writes of one call of [`AsyncWrites::submit`].
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) key: usize,
    pub(crate) memory: Memory,
    /// How many bytes each wrote.
    pub(crate) results: Vec<io::Result<usize>>,
}

/// `struct io_event` of include/uapi/linux/aio_abi.h.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct IoEvent {
    data: u64,
    obj: u64,
    res: i64,
    res2: i64,
}

/// `IOCB_CMD_PWRITE` of include/uapi/linux/aio_abi.h.
const IOCB_CMD_PWRITE: u16 = 1;

/// Events that are fetched at a time.
const EVENTS: usize = 32;

impl AsyncWrites {
    /// A context for at least this many writes at once. EAGAIN if the system's limit
    /// (fs.aio-max-nr) is reached, ENOSYS if the kernel was built without it.
    pub(crate) fn new(writes: u32) -> io::Result<Self> {
        let mut context: libc::c_ulong = 0;
        // SAFETY: io_setup writes one aio_context_t (an unsigned long) to its second argument,
        // which points to a live one that is 0 as it demands.
        let done = unsafe { libc::syscall(libc::SYS_io_setup, writes, &raw mut context) };
        if done == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            context,
            batches: Vec::new(),
            in_flight: 0,
        })
    }

    /// Starts writing parts of `memory` to the given offsets. Returns the key that
    /// [`AsyncWrites::next_done`] will return.
    pub(crate) fn submit(
        &mut self,
        file: &File,
        memory: Memory,
        parts: impl ExactSizeIterator<Item = (Range<usize>, u64)>,
    ) -> io::Result<usize> {
        let results = (0..parts.len()).map(|_| None).collect();
        let free = self.batches.iter().position(Option::is_none);
        let key = free.unwrap_or(self.batches.len());
        let mut iocbs = Vec::with_capacity(parts.len());
        for (index, (range, position)) in parts.enumerate() {
            let bytes = memory.get(range).ok_or(io::ErrorKind::InvalidInput)?;
            // SAFETY: all-zero bytes are a valid iocb; flags and the result's descriptor are unused.
            let mut iocb: libc::iocb = unsafe { MaybeUninit::zeroed().assume_init() };
            iocb.aio_data = ((key as u64) << 32) | index as u64;
            iocb.aio_lio_opcode = IOCB_CMD_PWRITE;
            iocb.aio_fildes = file.as_raw_fd().cast_unsigned();
            iocb.aio_buf = bytes.as_ptr() as u64;
            iocb.aio_nbytes = bytes.len() as u64;
            iocb.aio_offset = offset(position)?;
            iocbs.push(iocb);
        }
        // The memory is stored before the kernel gets its address, and is released only when the
        // kernel has reported every write.
        let batch = Some(Submitted { memory, results });
        match free {
            Some(key) => self.batches[key] = batch,
            None => self.batches.push(batch),
        }
        let mut waiting: Vec<*mut libc::iocb> =
            iocbs.iter_mut().map(|iocb| &raw mut *iocb).collect();
        let mut next = 0;
        while next < waiting.len() {
            let left = &mut waiting[next..];
            // SAFETY: the pointers are to live iocbs, which the kernel copies. They name the
            // memory of the batch above, at an address that moving its owner does not change, and
            // that is kept until every write is over: by `next_done`, or by io_destroy in `drop`.
            let taken = unsafe {
                libc::syscall(
                    libc::SYS_io_submit,
                    self.context,
                    left.len(),
                    left.as_mut_ptr(),
                )
            };
            match usize::try_from(taken) {
                Ok(taken) if taken > 0 => {
                    next += taken;
                    self.in_flight += taken;
                }
                _ => {
                    let error = io::Error::last_os_error();
                    if error.raw_os_error() == Some(libc::EAGAIN) && self.in_flight > 0 {
                        self.collect(true)?;
                        continue;
                    }
                    self.record(key, next, Err(error));
                    next += 1;
                }
            }
        }
        Ok(key)
    }

    /// Whether there is no write in progress and no memory is held.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.batches.iter().all(Option::is_none)
    }

    /// The next batch whose writes are all complete. None if there are no more, or, without `wait`,
    /// if none is complete yet.
    pub(crate) fn next_done(&mut self, wait: bool) -> io::Result<Option<Done>> {
        let mut is_last_look = false;
        loop {
            let is_done = |batch: &Option<Submitted>| {
                batch
                    .as_ref()
                    .is_some_and(|batch| batch.results.iter().all(Option::is_some))
            };
            if let Some(key) = self.batches.iter().position(is_done)
                && let Some(batch) = self.batches[key].take()
            {
                return Ok(Some(Done {
                    key,
                    memory: batch.memory,
                    results: batch.results.into_iter().flatten().collect(),
                }));
            }
            if self.in_flight == 0 || is_last_look {
                return Ok(None);
            }
            self.collect(wait)?;
            is_last_look = !wait;
        }
    }

    /// Records writes that are complete; with `wait`, waits for at least one.
    fn collect(&mut self, wait: bool) -> io::Result<()> {
        let mut events = [IoEvent {
            data: 0,
            obj: 0,
            res: 0,
            res2: 0,
        }; EVENTS];
        // SAFETY: io_getevents writes at most EVENTS events to the array, which has room for them;
        // without a timeout (null) it waits until there are as many as the least that is asked for.
        let got = unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                libc::c_long::from(wait),
                EVENTS as libc::c_long,
                events.as_mut_ptr(),
                ptr::null_mut::<libc::timespec>(),
            )
        };
        let got = match usize::try_from(got) {
            Ok(got) => got,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => 0,
                error => return Err(error),
            },
        };
        for event in events.into_iter().take(got) {
            self.in_flight -= 1;
            let key = (event.data >> 32) as usize;
            let index = (event.data & 0xffff_ffff) as usize;
            // A negative result is an errno.
            let result = usize::try_from(event.res).map_err(|_| {
                io::Error::from_raw_os_error(i32::try_from(-event.res).unwrap_or(libc::EIO))
            });
            self.record(key, index, result);
        }
        Ok(())
    }

    fn record(&mut self, key: usize, index: usize, result: io::Result<usize>) {
        let batch = self.batches.get_mut(key).and_then(Option::as_mut);
        if let Some(slot) = batch.and_then(|batch| batch.results.get_mut(index)) {
            *slot = Some(result);
        }
    }
}

impl Drop for AsyncWrites {
    fn drop(&mut self) {
        // SAFETY: no pointer is passed. The call returns when no write of this context is under
        // way any more (io_destroy(2)), and the memory that they read goes after that.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}
