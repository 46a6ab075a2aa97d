//! The compiled programs, embedded. `cargo xtask ebpf` writes the file; docs/ebpf.md tells how.

/// The ELF object. aya reads 8-byte words from it, hence the alignment.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!("../obj/greway.bpf.o");
