"""Space, spools and locks on this machine's disks."""
