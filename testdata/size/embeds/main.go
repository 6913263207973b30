// The smallest program with a server inside.
package main

import (
	"log"

	"github.com/omnibus-go/bus"
)

func main() {
	b, err := bus.New()
	if err != nil {
		log.Fatal(err)
	}
	if err := b.Close(); err != nil {
		log.Print(err)
	}
}
