//! What the decoding process does to itself.

use std::collections::BTreeMap;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, RulesetStatus, Scope,
};
use rustix::process::{Gid, Resource, Rlimit, Uid, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::sandbox::Parts;
use crate::sys;

/// Memory of its own: the largest window (130 MiB), and the program's own data.
const MAX_DATA_BYTES: u64 = 256 << 20; // 256 MiB

/// The user and group that own nothing, by the same number on every Linux (`overflowuid`).
const NOBODY: u32 = 65534;

/// What is done before anything else, while there is one thread.
pub(super) fn first() -> Parts {
    let mut parts = Parts::NONE;
    let mut note = |part, done: bool| {
        if done {
            parts = parts.with(part);
        }
    };
    // Where memory is short, this process goes first. Nothing depends on it.
    std::fs::write("/proc/self/oom_score_adj", "1000").ok();
    note(Parts::DESCRIPTORS, sys::close_all_from(3).is_ok());
    note(
        Parts::NO_NEW_PRIVILEGES,
        rustix::thread::set_no_new_privs(true).is_ok(),
    );
    note(Parts::USER, is_nobody());
    note(Parts::NAMESPACES, sys::unshare_all().is_ok());
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    note(
        Parts::CAPABILITIES,
        rustix::thread::set_capabilities(None, none).is_ok(),
    );
    parts
}

/// Becomes a user without rights, unless this is one, or root without the right to do so.
fn is_nobody() -> bool {
    if !rustix::process::geteuid().is_root() {
        return true;
    }
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    // The process has one thread, so that what is set for that is set for the process.
    rustix::thread::set_thread_groups(&[]).is_ok()
        && rustix::thread::set_thread_res_gid(group, group, group).is_ok()
        && rustix::thread::set_thread_res_uid(user, user, user).is_ok()
}

/// Denies everything that Landlock can deny on this kernel.
pub(super) fn landlock() -> Parts {
    let restricted = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(ABI::V5)))
        .and_then(|rules| rules.scope(Scope::from_all(ABI::V6)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self);
    match restricted {
        Ok(status) if status.ruleset != RulesetStatus::NotEnforced => Parts::LANDLOCK,
        _ => Parts::NONE,
    }
}

/// What is done when all threads and descriptors are there.
pub(super) fn last() -> Parts {
    let limits = [
        (Resource::Nofile, 0),
        (Resource::Nproc, 0),
        (Resource::Fsize, 0),
        (Resource::Core, 0),
        (Resource::Memlock, 0),
        (Resource::Data, MAX_DATA_BYTES),
    ];
    let limited = limits.into_iter().all(|(resource, bytes)| {
        let limit = Rlimit {
            current: Some(bytes),
            maximum: Some(bytes),
        };
        setrlimit(resource, limit).is_ok()
    });
    match limited {
        true => Parts::LIMITS,
        false => Parts::NONE,
    }
}

/// The system calls that decoding takes, as measured, and none that opens, starts or sends anything.
/// At any other one the kernel kills the process. `None` on a machine that the filter's compiler does not
/// know.
pub(super) fn filter() -> Option<BpfProgram> {
    let always = [
        // The lanes: they are the only descriptors that there are.
        libc::SYS_read,
        libc::SYS_write,
        // Memory, as the allocator gets and returns it.
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_madvise,
        // Threads that wait for each other.
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_restart_syscall,
        libc::SYS_clock_gettime,
        // The ends of a thread and of the process.
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_getpid,
        libc::SYS_gettid,
    ];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        always.into_iter().map(|call| (call, Vec::new())).collect();
    let masked = |argument, mask: libc::c_int, value: libc::c_int| {
        let mask = SeccompCmpOp::MaskedEq(u64::from(mask.cast_unsigned()));
        let value = u64::from(value.cast_unsigned());
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, mask, value)
    };
    let not_executable = || masked(2, libc::PROT_EXEC, 0);
    let anonymous = masked(3, libc::MAP_ANONYMOUS, libc::MAP_ANONYMOUS);
    let map = SeccompRule::new(vec![not_executable().ok()?, anonymous.ok()?]).ok()?;
    rules.insert(libc::SYS_mmap, vec![map]);
    let protect = SeccompRule::new(vec![not_executable().ok()?]).ok()?;
    rules.insert(libc::SYS_mprotect, vec![protect]);
    rules.insert(libc::SYS_mremap, Vec::new());
    // abort(3), so that it is told from a call that is not allowed.
    let own = u64::from(std::process::id());
    let itself = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, own);
    let abort = SeccompRule::new(vec![itself.ok()?]).ok()?;
    rules.insert(libc::SYS_tgkill, vec![abort]);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into().ok()?,
    );
    filter.ok()?.try_into().ok()
}

/// Applies the filter to this thread.
pub(super) fn apply(filter: Option<&BpfProgram>) -> bool {
    filter.is_some_and(|filter| seccompiler::apply_filter(filter).is_ok())
}
