"""Protocol between host and agent: messages, framing and the sans-IO connection."""

__version__ = "0.1.0"
