package storedir

// ParseIdentity, ParseOwner and ParseMove read the content of files that others may have written.
func ParseIdentity(raw []byte) (Identity, error) { return parseIdentity("dir", "file", raw) }

func ParseOwner(raw []byte) Owner { return parseOwner(raw) }

func ParseMove(raw []byte) (Move, error) { return parseMove("file", raw) }
