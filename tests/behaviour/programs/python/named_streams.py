import subprocess

text = open("/dev/stdin").read()
with open("/dev/stdout", "w") as stdout:
    stdout.write(text)
with open("/dev/stderr", "a") as stderr:
    stderr.write("and an error\n")
subprocess.run(["sh", "-c", "exec 3>&1; echo by a descriptor >/dev/fd/3"], check=True)
assert open("/proc/self/fd/0").read() == ""
