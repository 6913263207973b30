package limits

// What the tests see beside the API.
var (
	ClampMemory = clampMemory
	Least       = smallest
	BytesOf     = bytesOf
)
