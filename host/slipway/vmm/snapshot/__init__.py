"""Snapshots of a VM: state of devices and processors, written and read as one canonical file."""
