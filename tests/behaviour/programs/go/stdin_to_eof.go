package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

func main() {
	data, err := io.ReadAll(os.Stdin)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%d bytes, %d lines\n", len(data), bytes.Count(data, []byte("\n")))
}
