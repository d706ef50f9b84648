"""What the interpreter itself has, with plain numbers."""

from _socket import *
