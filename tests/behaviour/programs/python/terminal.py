import os

number = input("guess: ")
size = os.get_terminal_size()
print("".join(str(int(os.isatty(fd))) for fd in range(3)), end=" ")
print(f"in {size.lines}x{size.columns}: {number}")
os.abort()
