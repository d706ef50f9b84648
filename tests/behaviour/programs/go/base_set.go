package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"
)

func main() {
	zone, err := time.LoadLocation("America/New_York")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(time.Unix(0, 0).In(zone).Format("2006-01-02 15:04 MST"))
	if port, err := net.LookupPort("tcp", "ldaps"); port != 636 {
		fmt.Println("LookupPort", err)
	}
	command := exec.Command("bash", "base_set.sh")
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	if err := command.Run(); err != nil {
		fmt.Println(err)
	}
}
