"""What host and agent share: messages, framing and the sans-IO connection."""

__version__ = "0.1.0"
