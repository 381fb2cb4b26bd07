//! What keeps the decoding process from doing anything else.

use std::fmt;

/// Some of the restrictions of the decoding process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parts(u32);

impl Parts {
    /// None.
    pub const NONE: Self = Self(0);
    /// It has no descriptors except for its sockets and the shared memory.
    pub const DESCRIPTORS: Self = Self(1);
    /// It can open no file, write no file, start no process, and has a limit of memory.
    pub const LIMITS: Self = Self(1 << 1);
    /// It can never gain a privilege by running a program.
    pub const NO_NEW_PRIVILEGES: Self = Self(1 << 2);
    /// It has no capability.
    pub const CAPABILITIES: Self = Self(1 << 3);
    /// Landlock denies it every file, and where the kernel can, every TCP port, abstract socket and
    /// signal.
    pub const LANDLOCK: Self = Self(1 << 4);
    /// The kernel kills it at any system call but the few that decoding takes.
    pub const SECCOMP: Self = Self(1 << 5);
    /// It is not root.
    pub const USER: Self = Self(1 << 6);
    /// It is in namespaces of its own: users, network, IPC, mounts.
    pub const NAMESPACES: Self = Self(1 << 7);

    /// What `require` requires: each of these holds in any service or container on a kernel that has it.
    pub const ESSENTIAL: Self = Self(0b11_1111);
    /// Everything. The last two depend on the rights that this program has itself.
    pub const ALL: Self = Self(0b1111_1111);

    const NAMES: [(Self, &str); 8] = [
        (Self::DESCRIPTORS, "no descriptors"),
        (Self::LIMITS, "resource limits"),
        (Self::NO_NEW_PRIVILEGES, "no_new_privs"),
        (Self::CAPABILITIES, "no capabilities"),
        (Self::LANDLOCK, "Landlock"),
        (Self::SECCOMP, "seccomp"),
        (Self::USER, "a user without rights"),
        (Self::NAMESPACES, "namespaces of its own"),
    ];

    /// Both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are not in `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` are among these.
    pub fn has(self, other: Self) -> bool {
        other.without(self) == Self::NONE
    }

    pub(crate) fn bits(self) -> u32 {
        self.0
    }

    /// Bits that mean nothing are dropped.
    pub(crate) fn of_bits(bits: u32) -> Self {
        Self(bits & Self::ALL.0)
    }
}

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = Self::NAMES.iter().filter(|(part, _)| self.has(*part));
        if let Some((_, first)) = names.next() {
            f.write_str(first)?;
        }
        names.try_for_each(|(_, name)| write!(f, ", {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_listed_by_name_and_unknown_ones_do_not_count() {
        let some = Parts::SECCOMP.with(Parts::LIMITS);
        assert_eq!(some.to_string(), "resource limits, seccomp");
        assert!(some.has(Parts::SECCOMP) && !some.has(Parts::ESSENTIAL));
        assert_eq!(Parts::of_bits(u32::MAX), Parts::ALL);
        let extra = Parts::ALL.without(Parts::ESSENTIAL);
        assert_eq!(extra, Parts::USER.with(Parts::NAMESPACES));
    }
}
