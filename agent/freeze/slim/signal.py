"""What the interpreter itself has, with plain numbers."""

from _signal import *
