package codec

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
)

// The keys of maps. CBOR writes them like other values. JSON writes them as strings, and
// encoding/json reads a key with UnmarshalText where the type has it, also where it was not
// written with MarshalText.

const wantPlainKey = "a key without pointers and interfaces, or an interface that holds strings, numbers and bools"

const wantKeyText = "a key with MarshalText, without a pointer receiver, and UnmarshalText; or with neither"

const heldKey = "the key of a map that has interfaces as keys; use strings, numbers or bools, or one type of keys"

// visitKey looks at t, the type of the keys of a map.
func (s *search) visitKey(t reflect.Type) {
	switch {
	case t == numberType: // a string, in both formats
	case s.format == cborFormat && t.Kind() == reflect.Interface:
		s.info.inspect, s.info.nests = true, true
	case s.format == cborFormat:
		s.visitWholeKey(t)
	default:
		s.visitTextKey(t)
	}
}

// visitWholeKey looks at a type of keys like at other types, and refuses what would be
// another key when it is read.
func (s *search) visitWholeKey(t reflect.Type) {
	key := search{format: s.format, seen: map[typeKey]bool{}, path: map[reflect.Type]int{}}
	key.visit(t, false)
	if key.info.holds || t.Kind() == reflect.Pointer {
		s.refuse(t, wantPlainKey)
	}
	s.visit(t, false)
}

// visitTextKey refuses keys that are written as one text and read as another one.
func (s *search) visitTextKey(t reflect.Type) {
	reads := reflect.PointerTo(t).Implements(textUnmarshalerType)
	switch {
	case t == timeType || t.Kind() == reflect.String && reads:
		s.info.inspect = true
	case t.Kind() != reflect.String && reads != t.Implements(textMarshalerType):
		s.refuse(t, wantKeyText)
	}
}

// inspectKey returns why a key is refused.
func (w *inspection) inspectKey(key reflect.Value, depth int) error {
	switch t := key.Type(); {
	case t == numberType:
		return nil
	case t.Kind() == reflect.Interface:
		return checkHeldKey(key)
	case w.format == cborFormat || t == timeType:
		return w.inspectValue(key, false, depth, 0)
	case t.Kind() == reflect.String && reflect.PointerTo(t).Implements(textUnmarshalerType):
		return checkTextKey(key)
	}
	return nil
}

// checkTextKey returns an error if UnmarshalText does not give back key, a string, which is
// written without MarshalText.
func checkTextKey(key reflect.Value) error {
	read := reflect.New(key.Type())
	err := read.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(key.String()))
	if err == nil && read.Elem().String() != key.String() {
		err = fmt.Errorf("it becomes %q", shorten(read.Elem().String(), 40))
	}
	if err != nil {
		return fmt.Errorf("the key %q is written as it is and cannot be read by its UnmarshalText: %w", shorten(key.String(), 40), err)
	}
	return nil
}

// checkHeldKey refuses what an interface as a key would not hold when it is read.
func checkHeldKey(key reflect.Value) error {
	switch key = key.Elem(); {
	case !key.IsValid():
		return errors.New("nil as " + heldKey)
	case cborMethods(key.Type()).opaque || !isScalar(key):
		return fmt.Errorf("%s, a %v, as %s", shorten(fmt.Sprint(key), 40), key.Type(), heldKey)
	}
	return nil
}

// isScalar reports whether v is a string, a number or a bool.
func isScalar(v reflect.Value) bool {
	return v.CanInt() || v.CanUint() || v.CanFloat() || v.Kind() == reflect.String || v.Kind() == reflect.Bool
}

// checkHeldKeys returns an error if two keys of the map v, which has interfaces as keys, are
// written as the same one, such as int8(1) and uint(1). A NaN equals no other key, not even
// another NaN, when it is read too.
func checkHeldKeys(v reflect.Value) error {
	if v.Type().Key().Kind() != reflect.Interface {
		return nil
	}
	seen := make(map[string]bool, v.Len())
	for key := range v.Seq() {
		key = key.Elem()
		if key.CanFloat() && math.IsNaN(key.Float()) {
			continue
		}
		text := fmt.Sprintf("%t %v", key.CanInt() || key.CanUint(), key)
		if key.Kind() == reflect.String {
			text = "string " + key.String()
		}
		if seen[text] {
			return fmt.Errorf("two keys of a map are written as %s; use one type of keys", shorten(fmt.Sprint(key), 40))
		}
		seen[text] = true
	}
	return nil
}
