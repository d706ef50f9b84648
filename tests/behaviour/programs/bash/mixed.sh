text=$(cat)
echo "bash $1 ${#text}"
echo "error $1" >&2
echo $(($1 * $1)) > square.txt
exit $(($1 % 100))
