for number in {0..5}; do
    echo "tick $number"
    read -r
    sleep 0.4
done
