package codec

import (
	"encoding"
	"encoding/json"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"time"
)

// A format is what the JSON and the CBOR codec know of Go types: which ones they cannot
// carry, and how much memory their values take. What follows from a type is computed once.
type format struct {
	name     string
	fieldTag func(reflect.StructField) string
	// methods describes how t encodes itself, where it does.
	methods  func(t reflect.Type) methods
	maxDepth int // how deep the format's reader goes
	// types are what is known, by whether values are addressable: those in maps and
	// interfaces are not.
	types [2]sync.Map // reflect.Type → *typeInfo
}

// methods is how values of one type encode and decode themselves.
type methods struct {
	opaque   bool   // a method writes the value, its fields are not looked at
	decodes  bool   // a method reads what opaque's wrote
	pointer  bool   // the writing method has a pointer receiver and is ignored without one
	promoted bool   // the writing method is that of an embedded field
	inspect  bool   // some values are refused, although a method writes them
	needs    string // the names of the missing reading method, for errors
	flags    formFlags
}

// formFlags tell which forms occur in the graph of a type. Only CBOR needs them.
type formFlags uint8

const (
	hasJSONForm     formFlags = 1 << iota // a type that can be read by UnmarshalJSON alone
	hasTextAndJSON                        // a type that is written as text and has UnmarshalJSON
	hasBinaryForm                         // a type that has a binary form alone
	hasNumberInText                       // a json.Number in a place that holds no other type
	hasJSONReader                         // a type that is read by UnmarshalJSON and has no method to write it
)

// typeInfo is what follows from a type and all types that it consists of.
type typeInfo struct {
	refused *TypeError // why the codec cannot carry the type, or nil
	// unreadable is whether a refused type cannot be decoded either: what others send
	// would be read in a form that is not theirs.
	unreadable bool
	inspect    bool // values have to be inspected before they are encoded
	holds      bool // an interface may hold values of other types
	nests      bool // values can nest without bound
	pointer    bool // a method with a pointer receiver is ignored unless the value is addressable
	flags      formFlags
	cost       cost
	fields     []int // of a struct, the fields to inspect
}

// typeKey is a type and whether its values are addressable when they are encoded.
type typeKey struct {
	t           reflect.Type
	addressable bool
}

// Reasons why a type is refused, as TypeError.Want.
const (
	wantFields      = "exported fields, methods that encode and decode it, or a tag \"-\": its unexported fields would be lost"
	wantOwnMethods  = "encoding methods of its own: those of the embedded field would drop the other fields"
	wantPointer     = "a pointer to it in maps and interfaces: its encoding method has a pointer receiver"
	wantConcrete    = "a concrete type: nothing can be decoded into an interface with methods"
	wantEmbedded    = "an embedded struct or an exported type: a pointer to an unexported struct cannot be decoded"
	wantWholeJSON   = "the protobuf message as the whole value, or a field type with MarshalJSON and UnmarshalJSON"
	wantNoMessage   = "a type without protobuf messages; send them with codec.Protobuf or codec.JSON"
	wantNumberInAny = "int64, float64 or *big.Int, or an interface that holds the json.Number"
)

var (
	jsonMarshalerType   = reflect.TypeFor[json.Marshaler]()
	jsonUnmarshalerType = reflect.TypeFor[json.Unmarshaler]()
	textMarshalerType   = reflect.TypeFor[encoding.TextMarshaler]()
	numberType          = reflect.TypeFor[json.Number]()
	timeType            = reflect.TypeFor[time.Time]()
)

// lookup returns what the format knows of t.
func (f *format) lookup(t reflect.Type, addressable bool) *typeInfo {
	types := &f.types[index(addressable)]
	if known, ok := types.Load(t); ok {
		return known.(*typeInfo)
	}
	s := search{format: f, seen: map[typeKey]bool{}, path: map[reflect.Type]int{}}
	s.visit(t, addressable)
	if t.Kind() == reflect.Struct && s.info.refused == nil {
		s.info.fields = f.inspected(t)
	}
	known, _ := types.LoadOrStore(t, &s.info)
	return known.(*typeInfo)
}

// prepare returns what the format knows of v's type, and whether an interface in v holds a
// json.Number. It returns an error if the format cannot carry v.
func (f *format) prepare(v any) (info *typeInfo, number bool, err error) {
	t := reflect.TypeOf(v)
	if t == nil {
		return &typeInfo{}, false, nil
	}
	info = f.lookup(behindPointers(t), true)
	if info.refused != nil {
		return nil, false, info.refused.in(t)
	}
	if !info.inspect && (!info.nests || f != cborFormat) {
		return info, false, nil
	}
	w := inspection{format: f}
	if err := w.inspectTop(v); err != nil {
		return nil, false, f.located(v, err)
	}
	return info, w.number, nil
}

// prepareDestination returns what the format knows of the type that v points to. It returns
// an error if the format cannot decode into it.
func (f *format) prepareDestination(v any, want string) (*typeInfo, error) {
	dst, err := destination(f.name, v, want)
	if err != nil {
		return nil, err
	}
	if !encodable(dst.Kind()) {
		return nil, &TypeError{Codec: f.name, Type: reflect.TypeOf(v), Want: want}
	}
	t := behindPointers(dst.Type())
	info := f.lookup(t, true)
	if info.refused != nil && info.unreadable {
		return nil, info.refused.in(t)
	}
	return info, nil
}

// behindPointers returns what t points to in the end. A type that points to itself stays.
func behindPointers(t reflect.Type) reflect.Type {
	for range 32 {
		if t.Kind() != reflect.Pointer {
			break
		}
		t = t.Elem()
	}
	return t
}

// inspected returns the fields of the struct t that can hold what has to be inspected.
func (f *format) inspected(t reflect.Type) (fields []int) {
	if m := f.methods(t); m.promoted {
		return f.promotedTimes(t)
	} else if m.opaque {
		return nil
	}
	for i := range t.NumField() {
		s := search{format: f, seen: map[typeKey]bool{}, path: map[reflect.Type]int{t: 1}}
		if s.visitField(t.Field(i), true); s.info.inspect || s.info.nests {
			fields = append(fields, i)
		}
	}
	return fields
}

// search walks the graph of types below one. It ends at the first type that is refused.
type search struct {
	format *format
	info   typeInfo
	seen   map[typeKey]bool
	path   map[reflect.Type]int
}

func (s *search) refuse(t reflect.Type, want string) {
	if s.info.refused == nil {
		s.info.refused = &TypeError{Codec: s.format.name, Type: t, Want: want}
	}
}

// visit looks at t and what it consists of.
func (s *search) visit(t reflect.Type, addressable bool) {
	if s.path[t] > 0 {
		s.info.nests = true
	}
	key := typeKey{t, addressable}
	if s.info.refused != nil || s.seen[key] {
		return
	}
	s.seen[key] = true
	if t.Kind() == reflect.Interface {
		s.info.inspect, s.info.nests, s.info.holds = true, true, true
		s.info.cost.ofAny()
		return
	}
	if s.visitMethods(t, addressable) {
		return
	}
	s.path[t]++
	s.visitParts(t, addressable)
	s.path[t]--
}

// visitMethods looks at a type that encodes itself, or that no field describes. It
// reports whether nothing is left to look at.
func (s *search) visitMethods(t reflect.Type, addressable bool) (done bool) {
	if t.Kind() == reflect.Pointer {
		return false
	}
	m := s.format.methods(t)
	s.info.flags |= m.flags
	switch {
	case m.flags&hasNumberInText != 0:
		s.refuse(t, wantNumberInAny)
		s.info.unreadable = true
		return true
	case (!m.opaque || !m.decodes) && reflect.PointerTo(t).Implements(messageType):
		want := wantWholeJSON
		if s.format == cborFormat {
			want = wantNoMessage
		}
		s.refuse(t, want)
		s.info.unreadable = true
		return true
	case !m.opaque:
		return false
	}
	s.info.inspect = s.info.inspect || m.inspect
	if m.promoted {
		s.visitPromoted(t)
	}
	if !m.decodes {
		s.checkWriteOnly(t, m.needs)
	}
	if m.pointer && !addressable {
		s.refuse(t, wantPointer)
	}
	s.info.pointer = s.info.pointer || m.pointer
	return true
}

// visitPromoted looks at a type that an embedded field writes. A time in it is inspected.
func (s *search) visitPromoted(t reflect.Type) {
	if s.countFields(t) > 1 {
		s.refuse(t, wantOwnMethods)
	}
	for _, i := range s.format.promotedTimes(t) {
		s.visit(t.Field(i).Type, true)
	}
}

// promotedTimes returns the embedded fields of t that are times.
func (f *format) promotedTimes(t reflect.Type) (fields []int) {
	for i := range t.NumField() {
		if field := t.Field(i); field.Anonymous && indirectType(field.Type) == timeType {
			fields = append(fields, i)
		}
	}
	return fields
}

// checkWriteOnly refuses a type that has a method to write its values and none to read
// them, where what it writes cannot be read without one.
func (s *search) checkWriteOnly(t reflect.Type, needs string) {
	if t.Kind() == reflect.Struct && t.NumField() > 0 && s.countFields(t) == 0 {
		s.refuse(t, needs)
	}
	if needs == "UnmarshalText" && t.Kind() != reflect.String {
		s.refuse(t, needs)
	}
}

// visitParts looks at the types that t consists of.
func (s *search) visitParts(t reflect.Type, addressable bool) {
	switch t.Kind() {
	case reflect.Pointer:
		s.info.cost.ofPointer(t.Elem())
		s.visitBehind(t.Elem(), true)
	case reflect.Slice:
		s.info.cost.ofSlice(t.Elem())
		s.below("[]", func() { s.visitBehind(t.Elem(), true) })
	case reflect.Map:
		s.info.cost.ofMap(t)
		s.visitKey(t.Key())
		s.below("[]", func() { s.visitBehind(t.Elem(), false) })
	case reflect.Array:
		s.below("[]", func() { s.visit(t.Elem(), addressable) })
	case reflect.Struct:
		if s.isHidden(t) {
			s.refuse(t, wantFields)
			return
		}
		if s.format.hidesFields(t) {
			s.refuse(t, wantNames)
			return
		}
		for field := range t.Fields() {
			s.below(field.Name, func() { s.visitField(field, addressable) })
		}
	}
}

// below calls visit for a part of a type. If that is refused, the error names the part.
func (s *search) below(part string, visit func()) {
	if s.info.refused != nil {
		return
	}
	if visit(); s.info.refused != nil {
		s.info.refused.Field = joinPath(part, s.info.refused.Field)
	}
}

// visitBehind is visit for what a value may be without: where it holds unexported fields
// alone, it is refused once it is there.
func (s *search) visitBehind(t reflect.Type, addressable bool) {
	if s.isHidden(t) && !s.format.methods(t).opaque && !reflect.PointerTo(t).Implements(messageType) {
		s.info.inspect = true
		return
	}
	s.visit(t, addressable)
}

func (s *search) visitField(field reflect.StructField, addressable bool) {
	switch {
	case !s.format.isEncoded(field), s.format.omits(field):
	case !isFlattened(field, s.format):
		s.visit(field.Type, addressable)
	case field.Type.Kind() == reflect.Pointer && !field.IsExported():
		s.refuse(field.Type, wantEmbedded)
	default:
		s.visitFlattened(field, addressable)
	}
}

// visitFlattened looks at an embedded struct, whose fields become those of the outer one.
// What its methods would write is not.
func (s *search) visitFlattened(field reflect.StructField, addressable bool) {
	t := field.Type
	if t.Kind() == reflect.Pointer {
		t, addressable = t.Elem(), true
		s.info.cost.ofPointer(t)
	}
	if s.path[t] > 0 {
		return // both formats ignore it
	}
	hidden := s.isHidden(t)
	switch {
	case reflect.PointerTo(t).Implements(messageType):
		s.visitMethods(t, addressable)
	case hidden && s.format.methods(t).opaque:
		s.refuse(t, wantOwnMethods)
	case !hidden:
		s.path[t]++
		for inner := range t.Fields() {
			s.below(inner.Name, func() { s.visitField(inner, addressable) })
		}
		s.path[t]--
	}
}

// isHidden reports whether t is a struct of which no field is encoded, by no choice of
// its author, such as sync.Mutex.
func (s *search) isHidden(t reflect.Type) bool {
	if t.Kind() != reflect.Struct || s.countFields(t) > 0 {
		return false
	}
	hidden := false
	for field := range t.Fields() {
		if s.format.fieldTag(field) == "-" {
			return false
		}
		hidden = hidden || field.Name != "_"
	}
	return hidden
}

// countFields returns how many fields of t are encoded, an embedded one as one.
func (s *search) countFields(t reflect.Type) (n int) {
	if t.Kind() != reflect.Struct {
		return 0
	}
	for field := range t.Fields() {
		if s.format.isEncoded(field) && field.Name != "_" {
			n++
		}
	}
	return n
}

// isEncoded reports whether field is written: an exported one, or an embedded struct,
// unless the tag excludes it.
func (f *format) isEncoded(field reflect.StructField) bool {
	if f.fieldTag(field) == "-" {
		return false
	}
	return field.IsExported() || field.Anonymous && indirectType(field.Type).Kind() == reflect.Struct
}

// omits reports whether field is a number that is left out where encoding/json would write 0
// for an empty one.
func (f *format) omits(field reflect.StructField) bool {
	_, options, _ := strings.Cut(f.fieldTag(field), ",")
	return f == jsonFormat && field.Type == numberType && strings.Contains(options, "omit")
}

// isFlattened reports whether field is an embedded struct whose fields are written as
// those of the outer one.
func isFlattened(field reflect.StructField, f *format) bool {
	tag := f.fieldTag(field)
	return field.Anonymous && (tag == "" || tag[0] == ',') && indirectType(field.Type).Kind() == reflect.Struct
}

func indirectType(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

// isPromoted reports whether a method that t or *t has is that of an embedded field: the
// compiler writes such methods.
func isPromoted(t reflect.Type, find func(reflect.Type) (reflect.Method, bool)) bool {
	if t.Kind() != reflect.Struct {
		return false
	}
	m, ok := find(t)
	if !ok {
		m, ok = find(reflect.PointerTo(t))
	}
	if !ok {
		return false
	}
	fn := runtime.FuncForPC(m.Func.Pointer())
	if fn == nil {
		return false
	}
	file, _ := fn.FileLine(fn.Entry())
	return file == "<autogenerated>"
}

// The linker keeps methods that are looked up by a constant name, and all methods for
// another name.

func findMarshalJSON(t reflect.Type) (reflect.Method, bool)   { return t.MethodByName("MarshalJSON") }
func findMarshalText(t reflect.Type) (reflect.Method, bool)   { return t.MethodByName("MarshalText") }
func findMarshalBinary(t reflect.Type) (reflect.Method, bool) { return t.MethodByName("MarshalBinary") }
func findMarshalCBOR(t reflect.Type) (reflect.Method, bool)   { return t.MethodByName("MarshalCBOR") }
