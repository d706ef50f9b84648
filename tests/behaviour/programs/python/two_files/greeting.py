def text(name: str) -> str:
    return f"greetings from two files of {name}"
