//! Sound images that QEMU does not write by itself, made by hand.
