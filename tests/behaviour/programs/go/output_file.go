package main

import "os"

func main() {
	if err := os.WriteFile("result.txt", []byte("the result is 42\n"), 0o644); err != nil {
		panic(err)
	}
}
