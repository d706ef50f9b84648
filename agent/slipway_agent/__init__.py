"""Agent: PID 1 of the guest, which prepares the guest, runs jobs and reports their results."""
