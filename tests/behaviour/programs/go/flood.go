package main

import "fmt"

func main() {
	for number := 0; number < 20000; number++ {
		fmt.Printf("line %06d\n", number)
	}
}
