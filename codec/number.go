package codec

import (
	"encoding/json"
	"fmt"
	"math/big"
	"reflect"
	"strconv"
	"strings"
)

// numberValue returns the number that n is: an int64, uint64, *big.Int or float64. A
// fraction with more digits than a float64 has is an error.
func numberValue(n json.Number) (any, error) {
	text := string(n)
	if !strings.ContainsAny(text, ".eE") && text != "-0" {
		return integerValue(text)
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil, err
	}
	if digits(text) != digits(strconv.FormatFloat(f, 'e', -1, 64)) {
		return nil, fmt.Errorf("the number %s has more digits than a float64; use a string", shorten(text, 40))
	}
	return f, nil
}

func integerValue(text string) (any, error) {
	if i, err := strconv.ParseInt(text, 10, 64); err == nil {
		return i, nil
	}
	if u, err := strconv.ParseUint(text, 10, 64); err == nil {
		return u, nil
	}
	if i, ok := new(big.Int).SetString(text, 10); ok {
		return i, nil
	}
	return nil, fmt.Errorf("%q is not a number", shorten(text, 40))
}

// digits returns the digits of a decimal number without zeros at both ends, which tell
// whether two numbers of nearly the same size are equal.
func digits(text string) string {
	mantissa, _, _ := strings.Cut(strings.ToLower(strings.TrimLeft(text, "+-")), "e")
	return strings.Trim(strings.Replace(mantissa, ".", "", 1), "0")
}

// plainNumbers replaces in place each json.Number of what a reader of JSON made.
func plainNumbers(v any) (any, error) {
	var err error
	switch x := v.(type) {
	case json.Number:
		return numberValue(x)
	case map[string]any:
		for key, item := range x {
			if x[key], err = plainNumbers(item); err != nil {
				return nil, err
			}
		}
	case []any:
		for i, item := range x {
			if x[i], err = plainNumbers(item); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// withoutNumbers returns a copy of v in which each json.Number that an interface holds is
// the number itself. Parts without any are shared. v has no cycles.
func withoutNumbers(v any) (any, error) {
	plain, err := copyWithoutNumbers(reflect.ValueOf(v))
	if err != nil {
		return nil, err
	}
	return plain.Interface(), nil
}

func copyWithoutNumbers(v reflect.Value) (reflect.Value, error) {
	held := reflect.New(v.Type()).Elem()
	held.Set(v)
	err := replaceNumbers(held)
	return held, err
}

// replaceNumbers changes v, which can be set and whose parts are shared with the original.
func replaceNumbers(v reflect.Value) error {
	if !cborFormat.lookup(v.Type(), true).inspect {
		return nil
	}
	switch v.Kind() {
	case reflect.Interface:
		return replaceHeld(v)
	case reflect.Pointer:
		return replacePointed(v)
	case reflect.Struct:
		for _, i := range cborFormat.lookup(v.Type(), true).fields {
			if err := replaceNumbers(v.Field(i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		return replaceInMap(v)
	case reflect.Slice:
		if v.IsNil() {
			return nil
		}
		fresh := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		reflect.Copy(fresh, v)
		v.Set(fresh)
		return replaceElements(v)
	case reflect.Array:
		return replaceElements(v)
	}
	return nil
}

// replaceHeld replaces the numbers in what a pointer or an interface holds.
func replaceHeld(v reflect.Value) error {
	if v.IsNil() {
		return nil
	}
	if number, ok := v.Interface().(json.Number); ok {
		plain, err := numberValue(number)
		if err == nil {
			v.Set(reflect.ValueOf(plain))
		}
		return err
	}
	held, err := copyWithoutNumbers(v.Elem())
	if err == nil {
		v.Set(held)
	}
	return err
}

func replacePointed(v reflect.Value) error {
	if v.IsNil() {
		return nil
	}
	pointed, err := copyWithoutNumbers(v.Elem())
	if err != nil || !v.CanSet() {
		return err
	}
	v.Set(pointed.Addr())
	return nil
}

// replaceInMap replaces the numbers in the values of a map.
func replaceInMap(v reflect.Value) error {
	if v.IsNil() {
		return nil
	}
	fresh := reflect.MakeMapWithSize(v.Type(), v.Len())
	for key, item := range v.Seq2() {
		plainKey, err := copyWithoutNumbers(key)
		if err != nil {
			return err
		}
		plain, err := copyWithoutNumbers(item)
		if err != nil {
			return err
		}
		fresh.SetMapIndex(plainKey, plain)
	}
	v.Set(fresh)
	return nil
}

func replaceElements(v reflect.Value) error {
	for i := range v.Len() {
		if err := replaceNumbers(v.Index(i)); err != nil {
			return err
		}
	}
	return nil
}
