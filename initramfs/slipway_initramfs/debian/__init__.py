"""Debian packages: mirrors, apt, package files, kernels and the base set of tools."""
