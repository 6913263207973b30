package settle

// DeadReason says why a message becomes a dead letter. It is stored where the dead
// letter is not written yet, so that another process can write it.
type DeadReason struct {
	Cause    string `json:"cause"` // the kind of the failure
	Error    string `json:"error"` // its text
	Attempts int    `json:"attempts"`
}

// Failure returns r as the error of the handler.
func (r *DeadReason) Failure() *Failure { return &Failure{Cause: r.Cause, Text: r.Error} }

// Failure is the error of a handler that ran in another process, now or earlier.
type Failure struct {
	Cause string // the kind of the failure, as that process named it
	Text  string
}

func (f *Failure) Error() string { return f.Text }
