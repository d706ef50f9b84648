"""PID 1 of the guest: prepares the machine, runs jobs, reports what became of them."""
