"""Tools for language models, by the Model Context Protocol.

Only this room imports the optional dependency ``mcp``.
"""
