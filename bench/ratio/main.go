// Ratio reads the output of `go test -bench` and prints, for each benchmark with
// two variants that belong together, the median of both and their ratio.
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

// pairs are the variants that belong together.
var pairs = [][2]string{{"raw", "bus"}, {"one", "eight"}}

// sample is the results of one variant, one number per run.
type sample struct{ ns, allocs []float64 }

// table is the benchmarks that have a pair of variants.
type table struct {
	pair  [2]string
	order []string
	found map[string]*sample // by benchmark/variant
}

var line = regexp.MustCompile(`^Benchmark(\S+)/([a-z]+)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op(?:.*?(\d+) allocs/op)?`)

func run(r io.Reader, w io.Writer) error {
	var tables []*table
	for _, pair := range pairs {
		tables = append(tables, &table{pair: pair, found: map[string]*sample{}})
	}
	scan := bufio.NewScanner(r)
	for scan.Scan() {
		if m := line.FindStringSubmatch(strings.TrimSpace(scan.Text())); m != nil {
			for _, t := range tables {
				t.add(m[1], m[2], number(m[3]), number(m[4]))
			}
		}
	}
	if err := scan.Err(); err != nil {
		return err
	}
	printed := 0
	for _, t := range tables {
		if len(t.order) > 0 {
			if printed++; printed > 1 {
				fmt.Fprintln(w)
			}
			if err := t.print(w); err != nil {
				return err
			}
		}
	}
	if printed == 0 {
		return fmt.Errorf("no benchmark with the variants raw and bus, or one and eight, on standard input")
	}
	return nil
}

// add notes the result of a run, if it is one of the table's.
func (t *table) add(name, variant string, ns, allocs float64) {
	if !slices.Contains(t.pair[:], variant) {
		return
	}
	if !slices.Contains(t.order, name) {
		t.order = append(t.order, name)
		t.found[name+"/"+t.pair[0]], t.found[name+"/"+t.pair[1]] = &sample{}, &sample{}
	}
	s := t.found[name+"/"+variant]
	s.ns, s.allocs = append(s.ns, ns), append(s.allocs, allocs)
}

func (t *table) print(w io.Writer) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(out, "benchmark\t%[1]s µs\t%[2]s µs\ttime ratio\t%[1]s allocs\t%[2]s allocs\t\n", t.pair[0], t.pair[1])
	for _, name := range t.order {
		a, b := t.found[name+"/"+t.pair[0]], t.found[name+"/"+t.pair[1]]
		fmt.Fprintf(out, "%s\t%.2f\t%.2f\t%.3f\t%.0f\t%.0f\t\n", name, median(a.ns)/1000, median(b.ns)/1000,
			median(b.ns)/median(a.ns), median(a.allocs), median(b.allocs))
	}
	return out.Flush()
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
