"""Images: package sources, registries, layers, trees, cpio archives, kernels and the store."""
