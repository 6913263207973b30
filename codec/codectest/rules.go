package codectest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"mime"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// rule is one requirement of codec.Codec.
type rule struct {
	name  string
	check func(Suite) error
}

// rules are checked in this order. Those after RoundTrip assume that RoundTrip succeeds.
var rules = []rule{
	{"ContentType", Suite.checkContentType},
	{"RoundTrip", Suite.checkRoundTrip},
	{"MarshalLeavesValue", Suite.checkMarshalLeavesValue},
	{"OutputIndependent", Suite.checkOutputIndependent},
	{"UnmarshalLeavesData", Suite.checkUnmarshalLeavesData},
	{"WrongDestination", Suite.checkWrongDestination},
	{"UnsupportedValue", Suite.checkUnsupportedValue},
	{"EdgeValues", Suite.checkEdgeValues},
	{"Malformed", Suite.checkMalformed},
	{"ErrorText", Suite.checkErrorText},
	{"Mutated", Suite.checkMutated},
	{"Empty", Suite.checkEmpty},
	{"Concurrent", Suite.checkConcurrent},
}

// each calls check with every value and joins the errors.
func (s Suite) each(check func(v any) error) error {
	var errs []error
	for _, v := range s.Values {
		errs = append(errs, check(v))
	}
	return errors.Join(errs...)
}

// checkContentType checks that the content type is a media type in lower case, always the same.
func (s Suite) checkContentType() error {
	ct := s.Codec.ContentType()
	parsed, params, err := mime.ParseMediaType(ct)
	major, minor, slash := strings.Cut(ct, "/")
	switch {
	case err != nil:
		return fmt.Errorf("%q is no media type: %w", ct, err)
	case len(params) > 0 || strings.Contains(ct, ";"):
		return fmt.Errorf("%q has parameters; give the media type alone", ct)
	case parsed != ct:
		return fmt.Errorf("%q is not in lower case without blanks; want %q", ct, parsed)
	case !slash || major == "" || minor == "":
		return fmt.Errorf("%q is no media type: want type/subtype", ct)
	case s.Codec.ContentType() != ct:
		return fmt.Errorf("%q became %q at the second call", ct, s.Codec.ContentType())
	}
	return nil
}

// checkRoundTrip checks that a decoded value is equal to the encoded one.
func (s Suite) checkRoundTrip() error {
	return s.each(func(v any) error {
		data, err := s.marshal(v)
		if err != nil {
			return err
		}
		got, err := s.decode(data, v)
		if err != nil {
			return err
		}
		return s.wantEqual(got, v)
	})
}

// checkMarshalLeavesValue encodes one of two equal values. It compares them afterwards, and again
// after it has overwritten the output.
func (s Suite) checkMarshalLeavesValue() error {
	return s.each(func(v any) error {
		one, two, err := s.copies(v)
		if err != nil {
			return err
		}
		data, err := s.marshal(one)
		if err != nil {
			return err
		}
		if err := s.wantEqual(one, two); err != nil {
			return fmt.Errorf("Marshal changed its value: %w", err)
		}
		if isBytes(v) {
			return nil // the output may be v itself
		}
		overwrite(data)
		if err := s.wantEqual(one, two); err != nil {
			return fmt.Errorf("the output shares memory with the value: %w", err)
		}
		return nil
	})
}

// checkOutputIndependent overwrites one output and checks that an older and a newer output are
// still correct.
func (s Suite) checkOutputIndependent() error {
	return s.each(func(v any) error {
		older, err1 := s.marshal(v)
		kept := bytes.Clone(older)
		middle, err2 := s.marshal(v)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if isBytes(v) {
			return nil
		}
		overwrite(middle)
		younger, err := s.marshal(v)
		if err != nil {
			return err
		}
		if !bytes.Equal(older, kept) {
			return fmt.Errorf("a later Marshal changed the output for %s", describe(v))
		}
		got, err := s.decode(younger, v)
		if err != nil {
			return fmt.Errorf("after an earlier output was overwritten: %w", err)
		}
		return s.wantEqual(got, v)
	})
}

// checkUnmarshalLeavesData checks that Unmarshal does not change its data.
func (s Suite) checkUnmarshalLeavesData() error {
	return s.each(func(v any) error {
		data, err := s.marshal(v)
		if err != nil {
			return err
		}
		given := bytes.Clone(data)
		if _, err := s.decode(given, v); err != nil {
			return err
		}
		if !bytes.Equal(given, data) {
			return fmt.Errorf("Unmarshal changed its data: got %s, want %s", describe(given), describe(data))
		}
		return nil
	})
}

// checkWrongDestination checks that Unmarshal returns an error for nil, for a value that is not a
// pointer, and for a nil pointer.
func (s Suite) checkWrongDestination() error {
	return s.each(func(v any) error {
		data, err := s.marshal(v)
		if err != nil {
			return err
		}
		t := reflect.TypeOf(v)
		wrong := []any{nil, reflect.Zero(reflect.PointerTo(t)).Interface()}
		if t.Kind() != reflect.Pointer {
			wrong = append(wrong, reflect.Zero(t).Interface())
		}
		var errs []error
		for _, dst := range wrong {
			errs = append(errs, s.wantRefused(bytes.Clone(data), dst))
		}
		return errors.Join(errs...)
	})
}

// checkUnsupportedValue checks that Marshal returns an error for values that no format supports,
// and does not panic for nil.
func (s Suite) checkUnsupportedValue() error {
	var errs []error
	for _, v := range []any{make(chan int), func() {}} {
		switch _, err := s.marshal(v); {
		case panicked(err):
			errs = append(errs, err)
		case err == nil:
			errs = append(errs, fmt.Errorf("Marshal(%T) gave no error", v))
		}
	}
	if _, err := s.marshal(nil); panicked(err) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// checkMalformed checks that Unmarshal refuses the malformed data.
func (s Suite) checkMalformed() error {
	return s.each(func(v any) error {
		var errs []error
		for _, data := range s.Malformed {
			dst := reflect.New(reflect.TypeOf(v)).Interface()
			errs = append(errs, s.wantRefused(bytes.Clone(data), dst))
		}
		return errors.Join(errs...)
	})
}

// wantRefused returns an error if Unmarshal accepts data or panics.
func (s Suite) wantRefused(data []byte, dst any) error {
	switch err := s.unmarshal(data, dst); {
	case panicked(err):
		return err
	case err == nil:
		return fmt.Errorf("Unmarshal(%s, %T) gave no error", describe(data), dst)
	}
	return nil
}

// checkMutated checks that Unmarshal does not panic for damaged and random data.
func (s Suite) checkMutated() error {
	return s.each(func(v any) error {
		data, err := s.marshal(v)
		if err != nil {
			return err
		}
		for _, damaged := range mutations(data) {
			if _, err := s.decode(damaged, v); panicked(err) {
				return err
			}
		}
		return nil
	})
}

// mutations returns damaged and random data. It is the same in each run, so that a failure can be
// repeated.
func mutations(data []byte) [][]byte {
	const limit = 256
	rng := rand.New(rand.NewPCG(1, 2))
	var out [][]byte
	for n := range min(len(data), limit) {
		out = append(out, bytes.Clone(data[:n]))
	}
	for range limit {
		flipped := bytes.Clone(data)
		for range 1 + rng.IntN(3) {
			if len(flipped) > 0 {
				flipped[rng.IntN(len(flipped))] = byte(rng.Uint32())
			}
		}
		out = append(out, flipped, noise(rng))
	}
	return append(out, slices.Concat(data, data), slices.Concat(data, []byte{0}))
}

// noise returns random data.
func noise(rng *rand.Rand) []byte {
	b := make([]byte, rng.IntN(64))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// checkEmpty checks that nil and empty data give the same result every time: a value or an error.
func (s Suite) checkEmpty() error {
	return s.each(func(v any) error {
		var first error
		for i, data := range [][]byte{nil, {}, nil, {}} {
			_, err := s.decode(data, v)
			if panicked(err) {
				return err
			}
			if i == 0 {
				first = err
			} else if (err == nil) != (first == nil) {
				return fmt.Errorf("empty data into %T: first %v, then %v", v, first, err)
			}
		}
		return nil
	})
}

// checkConcurrent calls the codec from several goroutines.
func (s Suite) checkConcurrent() error {
	if err := s.checkMarshalLeavesValue(); err != nil {
		return fmt.Errorf("not tried, the values would race: %w", err)
	}
	const goroutines, rounds = 8, 25
	errs := make([]error, goroutines)
	var wg sync.WaitGroup
	for i := range goroutines {
		wg.Go(func() {
			for range rounds {
				if errs[i] = s.checkRoundTrip(); errs[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// copies returns two values that are equal to v and share no memory.
func (s Suite) copies(v any) (one, two any, err error) {
	data, err := s.marshal(v)
	if err != nil {
		return nil, nil, err
	}
	one, err1 := s.decode(bytes.Clone(data), v)
	two, err2 := s.decode(bytes.Clone(data), v)
	return one, two, errors.Join(err1, err2)
}

// isBytes reports whether v is a slice of bytes. Its encoding may be v itself.
func isBytes(v any) bool {
	t := reflect.TypeOf(v)
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8
}

// overwrite changes every byte of b.
func overwrite(b []byte) {
	for i := range b {
		b[i] ^= 0xff
	}
}
