import mmap
import sys

SIZE = 800 << 20
array = mmap.mmap(-1, SIZE)
for place in range(7):
    array[place * (SIZE // 7)] = 1
print("sparse", flush=True)
if sys.argv[1] == "whole":
    bytearray(2 * SIZE)
else:
    bytearray(1 << 50)
