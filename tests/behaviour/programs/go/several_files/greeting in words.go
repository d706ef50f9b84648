package main

func text(name, joint, word string) string {
	return "greetings from several files of " + name + joint + word
}
