package main

import "fmt"

func main() {
	fmt.Println("before the end of time")
	for {
	}
}
