import os
import threading

barrier = threading.Barrier(201)
threads = [threading.Thread(target=barrier.wait) for _ in range(200)]
for thread in threads:
    thread.start()
files = [open("/dev/null") for _ in range(900)]
with open("large", "wb") as file:
    file.truncate(1 << 30)
barrier.wait()
print(len(threads), "threads,", len(files), "files,", os.path.getsize("large") >> 30, "GiB")
