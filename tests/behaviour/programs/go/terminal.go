package main

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"
)

func main() {
	var number int
	fmt.Print("guess: ")
	fmt.Scan(&number)
	size := struct{ rows, columns, width, height uint16 }{}
	for fd := uintptr(0); fd < 3; fd++ {
		at := uintptr(unsafe.Pointer(&size))
		_, _, failure := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCGWINSZ, at)
		if failure == 0 {
			fmt.Print("1")
		}
	}
	fmt.Printf(" in %dx%d: %d\n", size.rows, size.columns, number)
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
}
