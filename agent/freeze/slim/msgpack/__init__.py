"""Stand-in for msgpack: the compiled packer and unpacker."""

from msgpack import exceptions
from msgpack._cmsgpack import Packer, unpackb


def packb(value, **options):
    """Return the bytes of ``value``."""
    return Packer(**options).pack(value)
