// Ratio reads the output of `go test -bench` and prints, for each benchmark with
// the variants raw and bus, the median of both and their ratio.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "ratio:", err)
		os.Exit(1)
	}
}

// sample is the results of one variant, one number per run.
type sample struct{ ns, allocs []float64 }

var line = regexp.MustCompile(`^Benchmark(\S+)/(raw|bus)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op(?:.*?(\d+) allocs/op)?`)

func run(r io.Reader, w io.Writer) error {
	found := map[string]map[string]*sample{}
	var order []string
	for scan := bufio.NewScanner(r); scan.Scan(); {
		m := line.FindStringSubmatch(strings.TrimSpace(scan.Text()))
		if m == nil {
			continue
		}
		if found[m[1]] == nil {
			found[m[1]] = map[string]*sample{"raw": {}, "bus": {}}
			order = append(order, m[1])
		}
		s := found[m[1]][m[2]]
		s.ns = append(s.ns, number(m[3]))
		s.allocs = append(s.allocs, number(m[4]))
	}
	if len(order) == 0 {
		return fmt.Errorf("no benchmark with the variants raw and bus on standard input")
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "benchmark\traw µs\tbus µs\ttime ratio\traw allocs\tbus allocs\t")
	for _, name := range order {
		raw, bus := found[name]["raw"], found[name]["bus"]
		fmt.Fprintf(t, "%s\t%.2f\t%.2f\t%.2f\t%.0f\t%.0f\t\n", name, median(raw.ns)/1000, median(bus.ns)/1000,
			median(bus.ns)/median(raw.ns), median(raw.allocs), median(bus.allocs))
	}
	return t.Flush()
}

func number(s string) float64 {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0 // no allocations were reported
	}
	return n
}

func median(xs []float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	xs = slices.Sorted(slices.Values(xs))
	if n := len(xs); n%2 == 0 {
		return (xs[n/2-1] + xs[n/2]) / 2
	}
	return xs[len(xs)/2]
}
