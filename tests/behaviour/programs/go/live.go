package main

import (
	"bufio"
	"fmt"
	"os"
	"time"
)

func main() {
	answers := bufio.NewScanner(os.Stdin)
	for number := 0; number < 6; number++ {
		fmt.Println("tick", number)
		answers.Scan()
		time.Sleep(400 * time.Millisecond)
	}
}
