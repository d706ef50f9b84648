"""Stand-in for ``__future__``, with the feature that the sources import."""

annotations = None
