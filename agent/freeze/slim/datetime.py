"""What the interpreter itself has, without the same once more in Python."""

from _datetime import *
from _datetime import datetime_CAPI
