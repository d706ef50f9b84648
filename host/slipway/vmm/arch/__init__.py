"""Differences between processor architectures, behind one protocol (model.py)."""
