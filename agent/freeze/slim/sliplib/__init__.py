"""Stand-in for sliplib: the encoding without servers, sockets and streams."""

from sliplib.slip import *
from sliplib.slip import END, ProtocolError, decode, encode
