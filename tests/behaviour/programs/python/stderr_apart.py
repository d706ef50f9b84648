import sys

for number in range(3):
    print(f"out {number}")
    print(f"err {number}", file=sys.stderr)
