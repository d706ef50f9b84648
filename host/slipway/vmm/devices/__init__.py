"""The devices of a machine: one in each module, none knows of KVM, of asyncio or of threads.

A device has registers, an interrupt to trigger and somewhere to put its bytes; what else it needs
is handed to it (a clock, what to do at a reset). Whoever calls it sees to it that one call ends
before the next begins.
"""
