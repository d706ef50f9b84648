"""Data and interfaces for callers: options, events, results, errors, handles."""
