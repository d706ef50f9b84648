for number in range(20000):
    print(f"line {number:06d}")
