"""The one search that sliplib does: a byte that is followed by none of some others."""


def search(pattern, data):
    """Whether ``data`` has the byte X before one that is neither Y nor Z: ``X[^YZ]``."""
    byte, allowed = pattern[:1], pattern[3:-1]
    if pattern != byte + b"[^" + allowed + b"]" or len(allowed) != 2:
        raise ValueError(f"cannot search for {pattern!r}")
    position = data.find(byte)
    last = len(data) - 1
    while 0 <= position < last:
        if data[position + 1] not in allowed:
            return True
        position = data.find(byte, position + 1)
    return None
