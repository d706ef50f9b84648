package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
)

func main() {
	number, _ := strconv.Atoi(os.Args[1])
	text, _ := io.ReadAll(os.Stdin)
	fmt.Println("go", number, len(text))
	fmt.Fprintln(os.Stderr, "error", number)
	os.WriteFile("square.txt", []byte(fmt.Sprintln(number*number)), 0o644)
	os.Exit(number % 100)
}
