package main

func main() {
	var number int = "three"
	_ = number
}
