// Hello says which platform it runs on. It is what README builds first.
package main

import (
	"fmt"
	"os"
	"runtime"
)

func main() {
	name := "world"
	if len(os.Args) > 1 {
		name = os.Args[1]
	}
	fmt.Printf("hello %s, from %s/%s\n", name, runtime.GOOS, runtime.GOARCH)
}
