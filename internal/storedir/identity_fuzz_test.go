package storedir

import (
	"encoding/json"
	"strings"
	"testing"
)

// An identity that is read can be given to the server, and survives being written.
func FuzzIdentity(f *testing.F) {
	good, err := json.Marshal(newIdentity())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"format":2,"id":["another","kind"]}`))
	f.Add([]byte(`{"format":1,"id":"a","server_name":"b c","domain":"d.>"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		id, err := parseIdentity("dir", "file", raw)
		if err != nil {
			if id != (Identity{}) {
				t.Errorf("it returns %+v with %v", id, err)
			}
			return
		}
		if id.Format != Format || len(id.ServerName) > maxName || len(id.Domain) > maxName || strings.ContainsAny(id.Domain, ".*> \r\n") {
			t.Errorf("got %+v", id)
		}
		again, err := json.Marshal(id)
		if err != nil {
			return // a time beyond the year 9999
		}
		if second, err := parseIdentity("dir", "file", again); err != nil || !second.Created.Equal(id.Created) || second.ID != id.ID || second.ServerName != id.ServerName {
			t.Errorf("%+v became %+v, %v", id, second, err)
		}
	})
}
