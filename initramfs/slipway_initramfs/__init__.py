"""Images: package sources, layers, trees, cpio archives, kernels and the store."""
