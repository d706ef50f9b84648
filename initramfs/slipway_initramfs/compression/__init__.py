"""Compressors and decompressors of archives, with bounded output."""
