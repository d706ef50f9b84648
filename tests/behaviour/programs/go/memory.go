package main

import "fmt"

func main() {
	fmt.Println("before the last of the memory")
	var hoard [][]byte
	for {
		block := make([]byte, 1<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		hoard = append(hoard, block)
	}
}
