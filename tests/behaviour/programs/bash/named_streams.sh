cat /dev/stdin >/dev/stdout
echo "and an error" >/dev/stderr
exec 3>&1
echo "by a descriptor" >/dev/fd/3
cat </proc/self/fd/0
