package storedir

// ParseIdentity, ParseOwner and ParseMove read the content of files that others may have written.
func ParseIdentity(raw []byte) (Identity, error) { return parseIdentity("dir", "file", raw) }

func ParseOwner(raw []byte) Owner { return parseOwner(raw) }

func ParseMove(raw []byte) (Move, error) { return parseMove("file", raw) }

// UnlockSelf leaves LOCK as the only lock of the directory.
func (d *Dir) UnlockSelf() {
	if d.locks.self != nil {
		_ = d.locks.self.Close()
		d.locks.self = nil
	}
}
