"""Stand-in for signal: the built-in module, with plain numbers."""

from _signal import *
