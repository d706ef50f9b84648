// Sieves primes with a chain of goroutines: vmm-run examples/primes.go -- 30
package main

import (
	"fmt"
	"os"
	"strconv"
)

func generate(numbers chan<- int) {
	for number := 2; ; number++ {
		numbers <- number
	}
}

func filter(in <-chan int, out chan<- int, prime int) {
	for number := range in {
		if number%prime != 0 {
			out <- number
		}
	}
}

func main() {
	count := 20
	if len(os.Args) > 1 {
		if given, err := strconv.Atoi(os.Args[1]); err == nil {
			count = given
		}
	}
	numbers := make(chan int)
	go generate(numbers)
	for ; count > 0; count-- {
		prime := <-numbers
		fmt.Println(prime)
		next := make(chan int)
		go filter(numbers, next, prime)
		numbers = next
	}
}
