"""Machines: hypervisors, the machines that they run, and templates of their snapshots.

A machine offers a transport to its agent, a console, and its end; bytes of the transport are never
interpreted here. The protocols are in :mod:`slipway.machine.model`.
"""
