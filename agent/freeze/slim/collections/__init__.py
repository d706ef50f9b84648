"""Stand-in for collections: built-in classes and the abstract classes."""

import _collections_abc as abc
import sys
from _collections import OrderedDict, defaultdict, deque

sys.modules["collections.abc"] = abc
