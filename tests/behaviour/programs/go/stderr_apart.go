package main

import (
	"fmt"
	"os"
)

func main() {
	for number := 0; number < 3; number++ {
		fmt.Println("out", number)
		fmt.Fprintln(os.Stderr, "err", number)
	}
}
