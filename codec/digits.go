package codec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"strconv"
	"strings"
)

// A reader of JSON makes a float64 of each number that no type waits for. So a number with
// more digits may be in a field of its type, and not in an interface.

// maxIntegerDigits is how many digits every integer may have that a float64 holds;
// maxFloatDigits is the most that the shortest text of a float64 has.
const (
	maxIntegerDigits = 15
	maxFloatDigits   = 17
)

// hasLongNumber reports whether data, which is JSON, has a number that may have more digits
// than a float64 holds.
func hasLongNumber(data []byte) bool {
	if !hasLongRun(data) {
		return false
	}
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case c == '"':
			i += jsonStringLen(data[i+1:])
		case c >= '0' && c <= '9':
			size, long := scanNumber(data[i:])
			if long {
				return true
			}
			i += size
		}
	}
	return false
}

// hasLongRun reports whether data has more than maxIntegerDigits digits and points in a row,
// in a number or a string. Such a row covers one of the bytes that are looked at.
func hasLongRun(data []byte) bool {
	const step = maxIntegerDigits + 1
	for i := step - 1; i < len(data); i += step {
		first, last := i, i
		for first >= 0 && isDigitOrPoint(data[first]) {
			first--
		}
		for last < len(data) && isDigitOrPoint(data[last]) {
			last++
		}
		if last-first > step { // first and last are outside of the row
			return true
		}
	}
	return false
}

func isDigitOrPoint(c byte) bool { return c >= '0' && c <= '9' || c == '.' }

// scanNumber reads the number that data begins with, behind its sign: how many bytes it has,
// and whether it has more digits than a float64 may have.
func scanNumber(data []byte) (size int, long bool) {
	digits, limit := 0, maxIntegerDigits
	for i, c := range data {
		switch {
		case c == '.':
			limit = maxFloatDigits
		case c < '0' || c > '9': // the end, or an exponent, whose digits are few
			return i, digits > limit
		case c != '0' || digits > 0:
			digits++
		}
	}
	return len(data), digits > limit
}

// checkDigits returns an error if an interface in v, which has no cycles, holds a number
// that its reader would round. held says whether v itself is behind an interface.
func checkDigits(v reflect.Value, held bool) error {
	if !v.IsValid() {
		return nil
	}
	switch v.Kind() {
	case reflect.Interface:
		return checkDigits(v.Elem(), true)
	case reflect.Pointer:
		return checkDigits(v.Elem(), held)
	}
	if jsonFormat.methods(v.Type()).opaque {
		return checkWrittenDigits(v, held)
	}
	switch v.Kind() {
	case reflect.Struct:
		return checkFieldDigits(v, held)
	case reflect.Map:
		for key, item := range v.Seq2() {
			if err := checkDigits(item, held); err != nil {
				return below(keyOf(key), err)
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if err := checkDigits(v.Index(i), held); err != nil {
				return below(indexOf(i), err)
			}
		}
	}
	if held && (v.CanInt() && !isExact(v.Int()) || v.CanUint() && !isExactUnsigned(v.Uint())) {
		return roundedError(fmt.Sprint(v), v.Type())
	}
	return nil
}

// checkFieldDigits is checkDigits for the fields of a struct. Those with the option string are
// not written as numbers.
func checkFieldDigits(v reflect.Value, held bool) error {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if !jsonFormat.isEncoded(field) {
			continue
		}
		_, options, _ := strings.Cut(jsonTag(field), ",")
		if err := checkDigits(v.Field(i), held && options != "string"); err != nil {
			return below(field.Name, err)
		}
	}
	return nil
}

// checkWrittenDigits is checkDigits for a value that a method writes.
func checkWrittenDigits(v reflect.Value, held bool) error {
	if !held || !v.CanInterface() {
		return nil
	}
	if !v.CanAddr() { // the method may have a pointer receiver
		copied := reflect.New(v.Type()).Elem()
		copied.Set(v)
		v = copied
	}
	data, err := json.Marshal(v.Addr().Interface())
	if err != nil || !hasLongNumber(data) && v.Type() != numberType {
		return err
	}
	var parsed any
	reader := json.NewDecoder(bytes.NewReader(data))
	reader.UseNumber()
	if err := reader.Decode(&parsed); err != nil {
		return err
	}
	return checkParsedDigits(parsed, v.Type())
}

// checkParsedDigits is checkDigits for what a method of t wrote.
func checkParsedDigits(v any, t reflect.Type) error {
	var err error
	switch x := v.(type) {
	case json.Number:
		if isRounded(string(x)) {
			return roundedError(string(x), t)
		}
	case map[string]any:
		for _, item := range x {
			if err = checkParsedDigits(item, t); err != nil {
				return err
			}
		}
	case []any:
		for _, item := range x {
			if err = checkParsedDigits(item, t); err != nil {
				return err
			}
		}
	}
	return nil
}

// isRounded reports whether a float64 has fewer digits than the number text.
func isRounded(text string) bool {
	if i, ok := new(big.Int).SetString(text, 10); ok {
		_, accuracy := new(big.Float).SetInt(i).Float64()
		return accuracy != big.Exact
	}
	f, err := strconv.ParseFloat(text, 64)
	return err != nil || digits(text) != digits(strconv.FormatFloat(f, 'e', -1, 64))
}

// isExact reports whether a float64 can hold n.
func isExact(n int64) bool { return n != math.MaxInt64 && int64(float64(n)) == n }

func isExactUnsigned(n uint64) bool { return n != math.MaxUint64 && uint64(float64(n)) == n }

func roundedError(number string, t reflect.Type) error {
	return fmt.Errorf("the number %s (a %v) in an interface would be read as a float64, which has fewer digits; use a field of a type with that many digits, a string, or codec.CBOR",
		shorten(number, 40), t)
}
