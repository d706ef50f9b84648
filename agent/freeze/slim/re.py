"""Stand-in for re, with the search that sliplib needs."""


def search(pattern, data):
    """Return True if ``data`` has byte X before a byte other than Y and Z, else None.

    ``pattern`` is ``X[^YZ]``.
    """
    byte, allowed = pattern[:1], pattern[3:-1]
    if pattern != byte + b"[^" + allowed + b"]" or len(allowed) != 2 or byte in allowed:
        raise ValueError(f"cannot search for {pattern!r}")
    followed = data.count(byte) - data.endswith(byte)
    right = data.count(byte + allowed[:1]) + data.count(byte + allowed[1:])
    return True if followed > right else None
