package main

import (
	"fmt"
	"os"
)

func write(name, text string) {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		panic(err)
	}
	defer file.Close()
	fmt.Fprint(file, text)
}

func main() {
	data, err := os.ReadFile("/dev/stdin")
	if err != nil {
		panic(err)
	}
	write("/dev/stdout", string(data))
	write("/dev/stderr", "and an error\n")
	write("/dev/fd/1", "by a descriptor\n")
	if _, err := os.ReadFile("/proc/self/fd/0"); err != nil {
		panic(err)
	}
}
