"""Server: an HTTP API on a Unix socket, and for each run a socket with its output."""
