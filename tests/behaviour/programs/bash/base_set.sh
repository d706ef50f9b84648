TZ=America/New_York date -d @0 '+%F %H:%M %Z'
. ./base_set.sh
