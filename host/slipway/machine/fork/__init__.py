"""Fork of a stopped process with all its threads, for warm clones of the qemu machine."""
