import contextlib
import ctypes.util
import curses
import datetime
import io
import mimetypes
import socket
import subprocess
import zoneinfo

zone = zoneinfo.ZoneInfo("America/New_York")
print(datetime.datetime.fromtimestamp(0, zone).strftime("%Y-%m-%d %H:%M %Z"))

if mimetypes.guess_type("a.webp")[0] != "image/webp" or "/etc/mime.types" not in mimetypes.knownfiles:
    print("mimetypes", mimetypes.guess_type("a.webp"))
if ctypes.util.find_library("c") != "libc.so.6" or ctypes.util.find_library("z") != "libz.so.1":
    print("find_library", ctypes.util.find_library("c"), ctypes.util.find_library("z"))
text = io.StringIO()
with contextlib.redirect_stdout(text):
    help("if")
if "conditional execution" not in text.getvalue():
    print("help", text.getvalue())
if socket.getservbyname("http") != 80:
    print("getservbyname")
curses.setupterm("xterm-256color")
if curses.tigetnum("colors") != 256:
    print("curses", curses.tigetnum("colors"))
subprocess.run(["bash", "base_set.sh"])
