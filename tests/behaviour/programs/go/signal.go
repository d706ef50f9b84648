package main

import (
	"os"
	"syscall"
)

func main() {
	// Go turns SIGSEGV and SIGABRT into a panic of its own, but not this one.
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
}
