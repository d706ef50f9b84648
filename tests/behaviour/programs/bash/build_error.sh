echo "this line is fine"
if then
