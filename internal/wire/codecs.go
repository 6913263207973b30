package wire

import (
	"errors"
	"fmt"
	"strings"

	"github.com/omnibus-go/bus/codec"
)

// Codecs is an immutable set of codecs by content type, safe for concurrent use.
type Codecs struct {
	byType map[string]codec.Codec
}

// NewCodecs returns a set of the built-in codecs and more. CheckCodec must accept each of more.
// Of codecs with the same content type the last one counts.
func NewCodecs(more ...codec.Codec) *Codecs {
	set := &Codecs{byType: map[string]codec.Codec{}}
	for _, c := range append(codec.Builtin(), more...) {
		set.byType[c.ContentType()] = c
	}
	return set
}

// CheckCodec returns an error if c is nil. It returns a *ContentTypeError if the content type
// of c is not in the form that ParseContentType returns.
func CheckCodec(c codec.Codec) error {
	if c == nil {
		return errors.New("give a codec, such as codec.JSON")
	}
	ct := c.ContentType()
	media, err := ParseContentType(ct)
	if err != nil {
		return err
	}
	if media != ct {
		return &ContentTypeError{ct, "a codec's must be in lower case without parameters"}
	}
	return nil
}

// suffixTypes are the media types as which a payload can be read if its own media type ends in the
// suffix (RFC 6839, RFC 8949).
var suffixTypes = map[string]string{"json": "application/json", "cbor": "application/cbor"}

// ByContentType returns the codec for a received Content-Type value, without regard to its
// parameters. If no codec has the media type and it ends in +json or +cbor, it returns the codec
// for JSON or CBOR. For another media type without a codec the error is an
// *UnknownContentTypeError. For an empty or malformed value it is a *ContentTypeError.
func (s *Codecs) ByContentType(ct string) (codec.Codec, error) {
	if c, ok := s.byType[ct]; ok {
		return c, nil
	}
	media, err := ParseContentType(ct)
	if err != nil {
		return nil, err
	}
	if c, ok := s.byType[media]; ok {
		return c, nil
	}
	if plus := strings.LastIndexByte(media, '+'); plus >= 0 {
		if c, ok := s.byType[suffixTypes[media[plus+1:]]]; ok {
			return c, nil
		}
	}
	return nil, &UnknownContentTypeError{ContentType: media}
}

// UnknownContentTypeError is the error for a content type without a codec in this process.
// Another process may have one.
type UnknownContentTypeError struct {
	ContentType string // lower case, without parameters
}

// Error returns a text with the content type.
func (e *UnknownContentTypeError) Error() string {
	return fmt.Sprintf("no codec for content type %q; give the bus one with WithCodec or WithCodecFor", e.ContentType)
}

// Acceptable returns the first encoding of an Accept-Encoding list that this version can
// write, or "". It ignores weights.
func Acceptable(list string) string {
	for item := range strings.SplitSeq(list, ",") {
		name, _, _ := strings.Cut(item, ";")
		switch name = strings.ToLower(strings.TrimSpace(name)); name {
		case EncodingZstd, EncodingS2, EncodingGzip:
			return name
		}
	}
	return ""
}
