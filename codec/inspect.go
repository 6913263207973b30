package codec

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"
)

// inspection is a walk through one value before it is encoded. It sees what the value's
// type alone does not tell: what interfaces and pointers hold, and how deep it nests.
// Values of plain structs, the usual ones, are not walked.
type inspection struct {
	format *format
	number bool // an interface holds a json.Number
}

// inspectTop walks the value that is to be encoded.
func (w *inspection) inspectTop(v any) error {
	switch v.(type) {
	case map[string]any, []any:
		return w.inspectAny(v, 0, 0) // needs no reflection
	}
	return w.inspectValue(reflect.ValueOf(v), true, 0, 0)
}

// inspectValue walks v, or returns why its type is refused.
func (w *inspection) inspectValue(v reflect.Value, addressable bool, depth, hops int) error {
	if depth > w.format.maxDepth || hops > w.format.maxDepth {
		return fmt.Errorf("value contains itself or is nested deeper than %d levels; break the cycle or exclude the field with a tag \"-\"", w.format.maxDepth)
	}
	info := w.format.lookup(v.Type(), addressable)
	switch {
	case info.refused != nil:
		return info.refused
	case !info.inspect && (!info.nests || w.format != cborFormat):
		return nil
	}
	switch v.Type() {
	case timeType:
		return w.checkTime(v)
	case numberType:
		return checkNumber(json.Number(v.String()))
	}
	switch v.Kind() {
	case reflect.Interface:
		return w.inspectInterface(v, depth, hops)
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return w.inspectValue(v.Elem(), true, depth, hops+1)
	case reflect.Struct:
		return w.inspectFields(v, info, addressable, depth+1)
	case reflect.Map:
		if tree, ok := treeOf(v); ok {
			return w.inspectAny(tree, depth, 0)
		}
		return w.inspectMap(v, depth+1)
	case reflect.Slice, reflect.Array:
		return w.inspectList(v, addressable || v.Kind() == reflect.Slice, depth+1)
	}
	return nil
}

var treeType = reflect.TypeFor[map[string]any]()

// treeOf returns v if it is a map as readers of JSON make it.
func treeOf(v reflect.Value) (any, bool) {
	if v.Type() != treeType || !v.CanInterface() {
		return nil, false
	}
	return v.Interface(), true
}

func (w *inspection) inspectInterface(v reflect.Value, depth, hops int) error {
	if v.IsNil() {
		return nil
	}
	if v.NumMethod() > 0 {
		return &TypeError{Codec: w.format.name, Type: v.Type(), Want: wantConcrete}
	}
	if !v.CanInterface() {
		return w.inspectValue(v.Elem(), false, depth, hops+1)
	}
	return w.inspectAny(v.Interface(), depth, hops)
}

// inspectAny walks what an interface holds. The types that readers of JSON make need no
// reflection.
func (w *inspection) inspectAny(v any, depth, hops int) error {
	if depth > w.format.maxDepth {
		return w.inspectValue(reflect.ValueOf(v), false, depth, hops)
	}
	switch x := v.(type) {
	case nil, string, bool, float64, int, int64, uint64:
		return nil
	case json.Number:
		w.number = true
		return checkNumber(x)
	case map[string]any:
		for key, item := range x {
			if err := w.inspectAny(item, depth+1, 0); err != nil {
				return below(indexOf(key), err)
			}
		}
		return nil
	case []any:
		for i, item := range x {
			if err := w.inspectAny(item, depth+1, 0); err != nil {
				return below(indexOf(i), err)
			}
		}
		return nil
	}
	rv := reflect.ValueOf(v)
	if w.format == jsonFormat && isBytes(rv.Type()) && !jsonMethods(rv.Type()).opaque {
		return errHeldBytes
	}
	return w.inspectValue(rv, false, depth, hops+1)
}

var errHeldBytes = errors.New("bytes in an interface would be read as a string in base64; use []byte as the type of the field or the subject, a string, or codec.CBOR")

// checkNumber returns an error for an empty number, which the libraries write as 0.
func checkNumber(n json.Number) error {
	if n == "" {
		return errors.New("an empty json.Number would be read as 0; set it, or give its field the option omitempty")
	}
	return nil
}

// checkTime returns an error if v is a time of which the instant would change. RFC 3339 has
// offsets of whole minutes, below a day. The library for CBOR writes a zero time as null.
func (w *inspection) checkTime(v reflect.Value) error {
	if !v.CanInterface() {
		return nil
	}
	t, ok := reflect.TypeAssert[time.Time](v)
	if !ok || w.format == cborFormat && t.IsZero() {
		return nil
	}
	if _, offset := t.Zone(); offset%60 != 0 || offset <= -24*60*60 || offset >= 24*60*60 {
		return fmt.Errorf("the time %v is %d s from UTC; RFC 3339 has whole minutes below a day, so another instant would be read; use UTC()", t, offset)
	}
	return nil
}

func (w *inspection) inspectFields(v reflect.Value, info *typeInfo, addressable bool, depth int) error {
	for _, i := range info.fields {
		if err := w.inspectValue(v.Field(i), addressable, depth, 0); err != nil {
			return below(v.Type().Field(i).Name, err)
		}
	}
	return nil
}

func (w *inspection) inspectMap(v reflect.Value, depth int) error {
	for entries := v.MapRange(); entries.Next(); { // Seq2 would move w to the heap
		if err := w.inspectKey(entries.Key(), depth); err != nil {
			return err
		}
		if err := w.inspectValue(entries.Value(), false, depth, 0); err != nil {
			return below(keyOf(entries.Key()), err)
		}
	}
	return checkHeldKeys(v)
}

func (w *inspection) inspectList(v reflect.Value, addressable bool, depth int) error {
	for i := range v.Len() {
		if err := w.inspectValue(v.Index(i), addressable, depth, 0); err != nil {
			return below(indexOf(i), err)
		}
	}
	return nil
}
