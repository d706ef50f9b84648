package main

func text(name string) string {
	return "greetings from two files of " + name
}
