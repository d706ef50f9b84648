"""The name that sliplib imports for its annotations, which nobody evaluates."""

Final = None
