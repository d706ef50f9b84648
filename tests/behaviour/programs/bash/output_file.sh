echo "the result is 42" >result.txt
