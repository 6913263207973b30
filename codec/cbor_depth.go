package codec

import (
	"encoding"
	"errors"
	"math/big"
	"reflect"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// The CBOR library follows a cycle until the stack overflows, and no recover catches that.
// encoding/json stops at a cycle. So Marshal first walks each value whose type allows a cycle.
// For other types, such as plain structs, that costs one map lookup.

// maxDepth is the deepest nesting that Marshal accepts. It is a little less than Unmarshal
// accepts, because tags need levels too.
const maxDepth = 250

var errTooDeep = errors.New("value contains itself or is nested deeper than 250 levels; break the cycle or exclude the field with a `cbor:\"-\"` tag")

// checkDepth returns errTooDeep if encoding v would nest deeper than maxDepth.
func checkDepth(v reflect.Value) error {
	return walk(v, 0)
}

// walk checks v and everything below it. depth is the nesting above v.
func walk(v reflect.Value, depth int) error {
	if depth > maxDepth {
		return errTooDeep
	}
	v, err := indirect(v)
	if err != nil || !v.IsValid() || !mayNest(v.Type()) {
		return err
	}
	switch v.Kind() {
	case reflect.Struct:
		return walkStruct(v, depth+1)
	case reflect.Map:
		return walkMap(v, depth+1)
	case reflect.Slice, reflect.Array:
		return walkList(v, depth+1)
	}
	return nil
}

// indirect follows pointers and interfaces. It returns the zero Value for nil.
func indirect(v reflect.Value) (reflect.Value, error) {
	for range maxDepth {
		if v.Kind() != reflect.Pointer && v.Kind() != reflect.Interface {
			return v, nil
		}
		v = v.Elem()
	}
	return v, errTooDeep
}

// walkStruct checks the fields of a struct.
func walkStruct(v reflect.Value, depth int) error {
	for i := range v.NumField() {
		if !isEncodedField(v.Type().Field(i)) {
			continue
		}
		if err := walk(v.Field(i), depth); err != nil {
			return err
		}
	}
	return nil
}

// walkMap checks the keys and values of a map.
func walkMap(v reflect.Value, depth int) error {
	for key, value := range v.Seq2() {
		if err := errors.Join(walk(key, depth), walk(value, depth)); err != nil {
			return errTooDeep
		}
	}
	return nil
}

// walkList checks the elements of a slice or an array.
func walkList(v reflect.Value, depth int) error {
	for i := range v.Len() {
		if err := walk(v.Index(i), depth); err != nil {
			return err
		}
	}
	return nil
}

// isEncodedField reports whether the CBOR library writes the field. It uses the cbor tag, or the
// json tag; "-" excludes a field.
func isEncodedField(f reflect.StructField) bool {
	tag := f.Tag.Get("cbor")
	if tag == "" {
		tag = f.Tag.Get("json")
	}
	return tag != "-" && (f.IsExported() || f.Anonymous)
}

var nests sync.Map // reflect.Type → bool: results of mayNest

// mayNest reports whether values of type t can be nested without a limit. That is so if the type
// contains an interface or itself.
func mayNest(t reflect.Type) bool {
	if known, ok := nests.Load(t); ok {
		return known.(bool)
	}
	may := nestsBelow(t, map[reflect.Type]bool{})
	nests.Store(t, may)
	return may
}

// nestsBelow does the work of mayNest. path has the types above t.
func nestsBelow(t reflect.Type, path map[reflect.Type]bool) bool {
	if t.Kind() == reflect.Interface || path[t] {
		return true
	}
	if encodesItself(t) {
		return false
	}
	path[t] = true
	defer delete(path, t)
	switch t.Kind() {
	case reflect.Map:
		return nestsBelow(t.Key(), path) || nestsBelow(t.Elem(), path)
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return nestsBelow(t.Elem(), path)
	case reflect.Struct:
		for field := range t.Fields() {
			if isEncodedField(field) && nestsBelow(field.Type, path) {
				return true
			}
		}
	}
	return false
}

var selfEncoders = []reflect.Type{
	reflect.TypeFor[cbor.Marshaler](),
	reflect.TypeFor[encoding.BinaryMarshaler](),
	reflect.TypeFor[encoding.TextMarshaler](),
}

// encodesItself reports whether the library encodes t by a method of t, or as a special case.
func encodesItself(t reflect.Type) bool {
	if t == reflect.TypeFor[time.Time]() || t == reflect.TypeFor[big.Int]() {
		return true
	}
	for _, encoder := range selfEncoders {
		if reflect.PointerTo(t).Implements(encoder) {
			return true
		}
	}
	return false
}
