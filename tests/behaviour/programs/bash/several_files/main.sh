source ./parts/greeting.sh

text bash
