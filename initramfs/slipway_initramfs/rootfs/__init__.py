"""Root file systems in memory: trees, layers, cpio archives and the files of every root."""
