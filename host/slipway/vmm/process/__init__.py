"""Processes of the VMM: its main loop, the zygote, the control channel, and the confinement."""
