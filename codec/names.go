package codec

import (
	"cmp"
	"reflect"
	"strings"
)

// Two fields of a struct, or of structs that it embeds, can have the same name in the
// format. Then the libraries write neither, without an error.

const wantNames = "different names for its fields: of two with the same name neither would be written"

// namedField is one field that may be written with a name.
type namedField struct {
	depth  int // how many structs are embedded around it
	tagged bool
}

// hidesFields reports whether two fields of the struct t have the same name and neither is
// written. The one that is embedded less deep is, and otherwise the only one with a tag.
func (f *format) hidesFields(t reflect.Type) bool {
	names := map[string][]namedField{}
	f.collectNames(t, 0, map[reflect.Type]bool{}, names)
	for _, fields := range names {
		if len(fields) > 1 && isAmbiguous(fields) {
			return true
		}
	}
	return false
}

// collectNames adds the fields of t, which is embedded depth times, to names. Around it are
// the types in path.
func (f *format) collectNames(t reflect.Type, depth int, path map[reflect.Type]bool, names map[string][]namedField) {
	if path[t] {
		return
	}
	path[t] = true
	defer delete(path, t)
	for field := range t.Fields() {
		switch name, _, _ := strings.Cut(f.fieldTag(field), ","); {
		case !f.isEncoded(field) || field.Name == "_":
		case isFlattened(field, f):
			f.collectNames(indirectType(field.Type), depth+1, path, names)
		default:
			key := cmp.Or(name, field.Name)
			names[key] = append(names[key], namedField{depth, name != ""})
		}
	}
}

// isAmbiguous reports whether none of the fields, which have the same name, is written.
func isAmbiguous(fields []namedField) bool {
	least, tagged, count := fields[0].depth, 0, 0
	for _, field := range fields {
		least = min(least, field.depth)
	}
	for _, field := range fields {
		if field.depth == least {
			count++
			if field.tagged {
				tagged++
			}
		}
	}
	return count > 1 && tagged != 1
}
