"""Stand-in for typing, with the name that sliplib imports for annotations."""

Final = None
