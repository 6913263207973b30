// Command ingest stores GitHub webhook events in a stream, and three consumers summarise them:
//
//	go run ./examples/ingest [flags] [file]
//
// It reads lines of JSON (NDJSON) from the file. Without a file, or with "-", it reads standard input:
//
//	{"event": "issues", "action": "opened", "payload": {…}}
//
// It publishes the payload to the subject github.<event>.<action> of the stream GITHUB. If there is no action
// the subject is github.<event>.none. It reports a line that cannot be used with the line number, and
// goes on with the next line.
//
// Flags:
//
//	-store dir   keep the stream in dir; without it, it is in memory
//	-url url     use the NATS server at url instead of one in this program
//	-strict      exit with code 1 when a line could not be used
//
// The exit code is 0 if all lines were read, even if some could not be used. It is 1 after a failure or an
// interrupt, and 2 for wrong flags. An interrupt (Ctrl-C) stops the program cleanly. With -store or
// -url the stored messages remain: a second run with the same input stores only the missing ones, and
// each consumer continues where it stopped.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(command()) }

func command() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second interrupt ends the program at once
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, newConsole(os.Stderr, isTerminal(os.Stderr)))
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	}
	fmt.Fprintln(os.Stderr, "ingest:", err)
	return 1
}

// config has the flags.
type config struct {
	store  string
	url    string
	strict bool
	file   string // "-" for standard input
}

// errUsage is the error for wrong flags. The program has printed the reason already.
var errUsage = errors.New("usage")

func parseFlags(args []string, out io.Writer) (config, error) {
	var c config
	flags := flag.NewFlagSet("ingest", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&c.store, "store", "", "keep the stream in this `dir`; without it, it is in memory")
	flags.StringVar(&c.url, "url", "", "use the NATS server at this `url` instead of one in this program")
	flags.BoolVar(&c.strict, "strict", false, "exit with code 1 when a line could not be used")
	flags.Usage = func() {
		fmt.Fprintln(out, "usage: ingest [flags] [file]")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return c, err
		}
		return c, errUsage
	}
	problem := ""
	switch {
	case flags.NArg() > 1:
		problem = "give one file, or none for standard input"
	case c.store != "" && c.url != "":
		problem = "-store is for the server in this program, -url names another one: give one of them"
	}
	if problem != "" {
		fmt.Fprintln(out, "ingest:", problem)
		flags.Usage()
		return c, errUsage
	}
	if c.file = flags.Arg(0); c.file == "" {
		c.file = "-"
	}
	return c, nil
}

// run runs the program and prints the summary to stdout.
func run(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer, con *console) error {
	c, err := parseFlags(args, con)
	if err != nil {
		return err
	}
	in, size, err := open(c.file, stdin)
	if err != nil {
		return err
	}
	defer in.Close()
	r, err := ingest(ctx, c, in, size, con)
	if r != nil {
		err = errors.Join(err, r.print(stdout))
	}
	if err == nil && c.strict && r.malformed > 0 {
		err = fmt.Errorf("%d lines could not be used", r.malformed)
	}
	return err
}

// open returns the input and its size in bytes, 0 if that is unknown.
func open(name string, stdin io.Reader) (io.ReadCloser, int64, error) {
	if name == "-" {
		return io.NopCloser(stdin), 0, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	if !info.Mode().IsRegular() {
		return f, 0, nil
	}
	return f, info.Size(), nil
}
