"""Small kernel: Linux compiled from Debian's source package by a configuration of our own."""
