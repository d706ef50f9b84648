"""Ready machines: the store of snapshots, templates, and the pool of idle clones."""
