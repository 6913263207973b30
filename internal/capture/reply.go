package capture

import (
	"fmt"
	"strings"
)

// CheckReply returns an error unless a responder may answer on a reply subject. Whoever
// sends a request chooses that subject, and the answer leaves with the rights of the
// responder: it must neither call an API of the server ("$JS.API.…") nor be stored by a
// known stream.
func (x *Index) CheckReply(reply string) error {
	if strings.HasPrefix(reply, "$") {
		return fmt.Errorf("the request is not answered: its reply subject %.200q belongs to an API of the server; the requester chose it", reply)
	}
	if s := x.Find(reply); s != nil {
		return fmt.Errorf("the request is not answered: stream %s stores its reply subject %.200q; the requester chose it", s.Name, reply)
	}
	return nil
}
