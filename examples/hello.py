import sys

print(f"Hello from Python {sys.version.split()[0]}, in a machine of its own")
print("This line goes to stderr", file=sys.stderr)
