from pathlib import Path


def word() -> str:
    return Path("main/word.txt").read_text().strip()
