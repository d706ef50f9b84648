read -rp "guess: " number
for fd in 0 1 2; do
    [ -t $fd ] && printf 1
done
read -r rows columns < <(stty size </dev/tty)
echo " in ${rows}x$columns: $number"
kill -ABRT $$
