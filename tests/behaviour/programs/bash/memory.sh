echo "before the last of the memory"
hoard=x
while :; do
    hoard+=$hoard
done
