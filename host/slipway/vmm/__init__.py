"""Our own VMM. So far: whether this host's KVM could carry it."""
