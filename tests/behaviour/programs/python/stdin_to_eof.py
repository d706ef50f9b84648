import sys

data = sys.stdin.buffer.read()
lines = data.count(b"\n")
print(f"{len(data)} bytes, {lines} lines")
