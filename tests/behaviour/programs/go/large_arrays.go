package main

import (
	"fmt"
	"os"
)

const size = 800 << 20

var array [size]byte

func main() {
	for place := 0; place < 7; place++ {
		array[place*(size/7)] = 1
	}
	fmt.Println("sparse")
	if os.Args[1] == "whole" {
		for place := range array {
			array[place] = 2
		}
	} else {
		// A process of arm64 has 256 TiB of addresses, twice as many as one of amd64: of less Go
		// would first lay out a heap.
		fmt.Println(len(make([]byte, 1<<48)))
	}
}
