// Ratio reads the output of several calls of `go test -bench` (not of one call with -count). For each
// benchmark with a pair of variants it prints the medians of both and the ratio of their times. The
// ratio is the median of the ratios of the single rounds. In a round the two variants run one after
// the other, so other load of the machine slows both. After the ratio it prints the range of the
// middle half of the ratios.
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

// pairs are the variants to compare.
var pairs = [][2]string{{"raw", "bus"}, {"one", "eight"}}

// sample has the results of one variant, one number for each run.
type sample struct{ ns, allocs []float64 }

func (s *sample) add(ns, allocs float64) {
	s.ns, s.allocs = append(s.ns, ns), append(s.allocs, allocs)
}

// table has the benchmarks with a pair of variants.
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
				if err := t.add(m[1], m[2], number(m[3]), number(m[4])); err != nil {
					return err
				}
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

// add adds the result of a run if its benchmark has a pair. In each round the first variant comes before
// the second.
func (t *table) add(name, variant string, ns, allocs float64) error {
	if !slices.Contains(t.pair[:], variant) {
		return nil
	}
	if !slices.Contains(t.order, name) {
		t.order = append(t.order, name)
		t.found[name+"/"+t.pair[0]], t.found[name+"/"+t.pair[1]] = &sample{}, &sample{}
	}
	first, second := t.found[name+"/"+t.pair[0]], t.found[name+"/"+t.pair[1]]
	switch ahead := len(first.ns) - len(second.ns); {
	case variant == t.pair[0] && ahead == 0:
		first.add(ns, allocs)
	case variant == t.pair[1] && ahead == 1:
		second.add(ns, allocs)
	default:
		return fmt.Errorf("%s/%s: each round needs %s and then %s; call go test again and again, without -count", name, variant, t.pair[0], t.pair[1])
	}
	return nil
}

func (t *table) print(w io.Writer) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(out, "benchmark\trounds\t%[1]s µs\t%[2]s µs\ttime ratio\tmiddle half\t%[1]s allocs\t%[2]s allocs\t\n", t.pair[0], t.pair[1])
	for _, name := range t.order {
		a, b := t.found[name+"/"+t.pair[0]], t.found[name+"/"+t.pair[1]]
		r := ratios(a.ns, b.ns)
		fmt.Fprintf(out, "%s\t%d\t%.2f\t%.2f\t%.3f\t%.3f–%.3f\t%.0f\t%.0f\t\n", name, len(r),
			quantile(a.ns, 0.5)/1000, quantile(b.ns, 0.5)/1000, quantile(r, 0.5), quantile(r, 0.25), quantile(r, 0.75),
			quantile(a.allocs, 0.5), quantile(b.allocs, 0.5))
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

// ratios returns b/a for each round. The last round may have no b.
func ratios(a, b []float64) []float64 {
	r := make([]float64, min(len(a), len(b)))
	for i := range r {
		r[i] = b[i] / a[i]
	}
	return r
}

// quantile returns the value below which the share q of xs is.
func quantile(xs []float64, q float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	xs = slices.Sorted(slices.Values(xs))
	at := q * float64(len(xs)-1)
	below := int(at)
	above := min(below+1, len(xs)-1)
	return xs[below] + (at-float64(below))*(xs[above]-xs[below])
}
