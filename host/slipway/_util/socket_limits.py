"""Limits of Unix sockets."""

from __future__ import annotations

# Bytes of a socket's path; with its NUL it fills ``sun_path`` (unix(7)).
MAX_SOCKET_PATH = 107
# Seconds before another try to connect to a listener whose queue is full.
CONNECT_PAUSE = 0.01
