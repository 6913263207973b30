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

// NewCodecs returns the built-in codecs and more, each of which CheckCodec accepts. Of
// two with the same content type, the later one counts; more come after the built-in ones.
func NewCodecs(more ...codec.Codec) *Codecs {
	set := &Codecs{byType: map[string]codec.Codec{}}
	for _, c := range append(codec.Builtin(), more...) {
		set.byType[c.ContentType()] = c
	}
	return set
}

// CheckCodec returns an error if c is nil, or a *ContentTypeError if its content type
// is not what ParseContentType makes of it.
func CheckCodec(c codec.Codec) error {
	if c == nil {
		return errors.New("give a codec, as codec.JSON")
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

// ByContentType returns the codec for a Content-Type value as it was received. A media
// type without codec is an *UnknownContentTypeError, which a newer member may know;
// garbage, and an empty value, is a *ContentTypeError.
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
	return nil, &UnknownContentTypeError{ContentType: media}
}

// UnknownContentTypeError is returned for a content type that no codec of this member
// has. Another member, or a newer one, may have it.
type UnknownContentTypeError struct {
	ContentType string // lower case, without parameters
}

// Error names the content type.
func (e *UnknownContentTypeError) Error() string {
	return fmt.Sprintf("no codec for content type %q; give the bus one with WithCodec or WithCodecFor", e.ContentType)
}

// Acceptable returns the first encoding of an Accept-Encoding list that this
// version can write, or "" where there is none. Weights are not looked at.
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
