def text(name: str, word: str) -> str:
    return f"greetings from several files of {name}, {word}"
