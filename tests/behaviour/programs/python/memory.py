print("before the last of the memory", flush=True)
hoard = []
while True:
    hoard.append(b"x" * (1 << 20))
