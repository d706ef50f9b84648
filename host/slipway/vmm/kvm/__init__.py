"""The interface of /dev/kvm (Linux, Documentation/virt/kvm/api.rst); nothing else knows it."""
