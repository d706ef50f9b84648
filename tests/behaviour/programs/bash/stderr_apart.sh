for number in 0 1 2; do
    echo "out $number"
    echo "err $number" >&2
done
