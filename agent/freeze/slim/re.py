"""The one search that sliplib does: a byte that is followed by neither of two others."""


def search(pattern, data):
    """Whether ``data`` has the byte X before one that is neither Y nor Z: ``X[^YZ]``."""
    byte, allowed = pattern[:1], pattern[3:-1]
    if pattern != byte + b"[^" + allowed + b"]" or len(allowed) != 2 or byte in allowed:
        raise ValueError(f"cannot search for {pattern!r}")
    followed = data.count(byte) - data.endswith(byte)
    right = data.count(byte + allowed[:1]) + data.count(byte + allowed[1:])
    return True if followed > right else None
