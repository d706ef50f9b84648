package main

import (
	_ "embed"
	"fmt"

	"example.com/several/parts"
)

//go:embed main/word.txt
var word string

func main() {
	fmt.Print(text("go", parts.Joint, word))
}
