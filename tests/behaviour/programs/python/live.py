import sys
import time

for number in range(6):
    print(f"tick {number}", flush=True)
    sys.stdin.readline()
    time.sleep(0.4)
