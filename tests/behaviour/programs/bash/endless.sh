echo "before the end of time"
while :; do :; done
