package codec

// The compressions of payloads, for bus.WithCompression. They are the values of the header
// Content-Encoding. A bus can read all of them.
const (
	Zstd = "zstd"
	S2   = "s2"
	Gzip = "gzip"
)
