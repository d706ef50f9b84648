"""Stand-in for socket: the built-in module, with plain numbers."""

from _socket import *
