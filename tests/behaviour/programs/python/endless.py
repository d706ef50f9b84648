print("before the end of time", flush=True)
while True:
    pass
