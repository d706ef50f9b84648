"""The words of callers: options, events, results, errors, and the handles' base classes."""
