import platform
import sys

print(f"Hello from Python {platform.python_version()} on Linux {platform.release()}")
print("This line goes to stderr", file=sys.stderr)
