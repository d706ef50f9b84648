"""Stand-in for datetime: the C module without the Python version."""

from _datetime import *
from _datetime import datetime_CAPI
