package codec

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"reflect"
)

// A few bytes of text can become many of memory: an empty map is two bytes of JSON and
// 300 in Go. So large payloads are weighed before they are decoded, by what their values
// can take in the destination's type, and Marshal refuses what Unmarshal would.

const (
	// weighedFrom is the size of payloads that are weighed. Smaller ones do little harm.
	weighedFrom = 16 << 10
	// maxMemory and maxGrowth bound the memory of a decoded payload: the larger counts.
	maxMemory = 256 << 20
	maxGrowth = 6
)

// cost is the memory, in bytes, that parts of an encoding take at most in values of one
// type. The numbers are rough: a third more or less does not matter.
type cost struct {
	value, object, pair int64
}

func (c *cost) ofAny() {
	c.value, c.object, c.pair = max(c.value, 48), max(c.object, 320), max(c.pair, 64)
}

func (c *cost) ofPointer(elem reflect.Type) { c.value = max(c.value, 8+int64(elem.Size())) }

// ofSlice counts each element twice, since slices grow by copying.
func (c *cost) ofSlice(elem reflect.Type) { c.value = max(c.value, 2*int64(elem.Size())) }

func (c *cost) ofMap(t reflect.Type) {
	c.object = max(c.object, 320)
	c.pair = max(c.pair, 2*int64(t.Key().Size()+t.Elem().Size()))
}

// parts counts what an encoding consists of.
type parts struct{ values, objects, pairs int64 }

// memory is how many bytes the parts take in values of a type with this cost.
func (c cost) memory(p parts) int64 {
	return c.value*p.values + c.object*p.objects + c.pair*p.pairs
}

// check returns a *memoryError if the parts of data take more memory than allowed.
func (c cost) check(p parts, size int) error {
	need, limit := c.memory(p), max(maxMemory, maxGrowth*int64(size))
	if need > limit {
		return &memoryError{size: size, need: need, limit: limit}
	}
	return nil
}

// memoryError is a payload that would take too much memory once it is decoded.
type memoryError struct {
	size        int
	need, limit int64
}

func (e *memoryError) Error() string {
	return fmt.Sprintf("%d bytes would take about %d MiB of memory once decoded, allowed are %d MiB; split the value into several messages",
		e.size, e.need>>20, e.limit>>20)
}

// jsonParts counts the parts of JSON and how deep it nests. Of what is not JSON it counts
// something.
func jsonParts(data []byte) (p parts, depth int) {
	level := 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"':
			i += jsonStringLen(data[i+1:])
		case ',':
			p.values++
		case ':':
			p.pairs++
		case '{', '[':
			if level++; level > depth {
				depth = level
			}
			p.values++
			if data[i] == '{' {
				p.objects++
			}
		case '}', ']':
			level--
		}
	}
	return p, depth
}

// jsonStringLen is the length of the string that data begins with, behind its first
// quote, with its last one.
func jsonStringLen(data []byte) int {
	for i := 0; i < len(data); {
		quote := bytes.IndexByte(data[i:], '"')
		if quote < 0 {
			return len(data)
		}
		escape := bytes.IndexByte(data[i:i+quote], '\\')
		if escape < 0 {
			return i + quote + 1
		}
		i += escape + 2
	}
	return len(data)
}

// cborParts counts the parts of CBOR. Where it is malformed the count ends.
func cborParts(data []byte) (p parts) {
	for len(data) > 0 {
		major, arg, n := cborHead(data)
		if n == 0 {
			return p
		}
		data = data[n:]
		p.values++
		switch major {
		case 2, 3: // strings
			if arg > uint64(len(data)) {
				return p
			}
			data = data[arg:]
		case 4: // an array: its elements follow
		case 5:
			p.objects++
			p.pairs += int64(min(arg, uint64(len(data)))) // a pair has two bytes at least
		}
	}
	return p
}

// cborHead reads the head of a data item: its major type, its argument, 0 for an unknown
// length, and the length of the head, 0 where it is malformed.
func cborHead(data []byte) (major byte, arg uint64, n int) {
	major, low := data[0]>>5, data[0]&31
	switch {
	case low < 24:
		return major, uint64(low), 1
	case low == 31:
		return major, 0, 1
	case low > 27:
		return major, 0, 0
	}
	size := 1 << (low - 24)
	if len(data) < 1+size {
		return major, 0, 0
	}
	var full [8]byte
	copy(full[8-size:], data[1:1+size])
	return major, binary.BigEndian.Uint64(full[:]), 1 + size
}
