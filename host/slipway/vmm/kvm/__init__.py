"""Interface of /dev/kvm (Linux, Documentation/virt/kvm/api.rst), known only to this package."""
