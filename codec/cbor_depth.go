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

// The CBOR library follows cycles until the stack overflows, which no recover catches.
// encoding/json stops at them. So values whose type allows a cycle are walked first;
// messages of plain structs, the usual ones, pay one map lookup.

// maxDepth is a little less than the decoder allows, to leave room for tags.
const maxDepth = 250

var errTooDeep = errors.New("value contains itself or is nested deeper than 250 levels; break the cycle or exclude the field with a `cbor:\"-\"` tag")

// checkDepth returns errTooDeep if encoding v would nest deeper than maxDepth.
func checkDepth(v reflect.Value) error {
	return walk(v, 0)
}

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

// indirect follows pointers and interfaces; the zero Value stands for nil.
func indirect(v reflect.Value) (reflect.Value, error) {
	for range maxDepth {
		if v.Kind() != reflect.Pointer && v.Kind() != reflect.Interface {
			return v, nil
		}
		v = v.Elem()
	}
	return v, errTooDeep
}

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

func walkMap(v reflect.Value, depth int) error {
	for key, value := range v.Seq2() {
		if err := errors.Join(walk(key, depth), walk(value, depth)); err != nil {
			return errTooDeep
		}
	}
	return nil
}

func walkList(v reflect.Value, depth int) error {
	for i := range v.Len() {
		if err := walk(v.Index(i), depth); err != nil {
			return err
		}
	}
	return nil
}

// isEncodedField follows the CBOR library: cbor tag before json tag, "-" excludes.
func isEncodedField(f reflect.StructField) bool {
	tag := f.Tag.Get("cbor")
	if tag == "" {
		tag = f.Tag.Get("json")
	}
	return tag != "-" && (f.IsExported() || f.Anonymous)
}

var nests sync.Map // reflect.Type → bool, the verdicts of mayNest

// mayNest reports whether values of type t can nest without bound: its type graph has an
// interface or a cycle.
func mayNest(t reflect.Type) bool {
	if known, ok := nests.Load(t); ok {
		return known.(bool)
	}
	may := searchNest(t, map[reflect.Type]bool{})
	nests.Store(t, may)
	return may
}

// searchNest is mayNest below the types that are already on the path.
func searchNest(t reflect.Type, path map[reflect.Type]bool) bool {
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
		return searchNest(t.Key(), path) || searchNest(t.Elem(), path)
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return searchNest(t.Elem(), path)
	case reflect.Struct:
		for field := range t.Fields() {
			if isEncodedField(field) && searchNest(field.Type, path) {
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

// encodesItself reports whether the library hands t to a method or knows it by name.
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
