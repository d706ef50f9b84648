"""Slipway's tools for language models, by the Model Context Protocol.

Here and nowhere else the optional dependency ``mcp`` is imported.
"""
