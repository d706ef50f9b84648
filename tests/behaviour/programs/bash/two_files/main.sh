source ./greeting.sh

text bash
