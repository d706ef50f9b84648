# Looks around in the machine that it runs in: vmm-run examples/machine.sh
echo "I am $(id -un) ($(id -u)) in $PWD on $(uname -sr)"
echo "$(nproc) CPU, $(awk '/MemAvailable/ { print int($2 / 1024) }' /proc/meminfo) MiB of memory free"
echo "up for $(cut -d' ' -f1 /proc/uptime) seconds; processes that I can see:"
ps -eo pid,ppid,comm
