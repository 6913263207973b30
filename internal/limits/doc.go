// Package limits answers how much memory and disk a bus may take when nobody
// says so. Its functions never fail: a source that cannot be read does not count.
package limits
