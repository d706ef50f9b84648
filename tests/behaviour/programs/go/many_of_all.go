package main

import (
	"fmt"
	"os"
	"runtime"
	"sync"
)

func main() {
	var begun, done sync.WaitGroup
	begun.Add(200)
	done.Add(200)
	for i := 0; i < 200; i++ {
		go func() {
			runtime.LockOSThread()
			begun.Done()
			begun.Wait()
			done.Done()
		}()
	}
	done.Wait()
	var files []*os.File
	for i := 0; i < 900; i++ {
		file, err := os.Open("/dev/null")
		if err != nil {
			panic(err)
		}
		files = append(files, file)
	}
	large, err := os.Create("large")
	if err != nil {
		panic(err)
	}
	if err := large.Truncate(1 << 30); err != nil {
		panic(err)
	}
	info, _ := large.Stat()
	fmt.Println(200, "threads,", len(files), "files,", info.Size()>>30, "GiB")
}
