"""Devices of a machine, one a module, without knowledge of KVM, asyncio or threads.

A device has registers, an interrupt to trigger, and a backend for its bytes; a clock or the effect
of a reset is an argument. The caller ends one call before the next begins.
"""
