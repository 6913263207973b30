package intake

import "github.com/omnibus-go/bus/internal/wire"

// earlyFollowers are messages that came back before the Return had ended that moves them. They
// wait for its result, in the order in which they came. Guarded by Durable.mu.
type earlyFollowers struct {
	keys  map[string][]wire.Delivery // by token
	count int
}

func (e *earlyFollowers) add(token string, del wire.Delivery) {
	if e.keys == nil {
		e.keys = make(map[string][]wire.Delivery)
	}
	e.keys[token] = append(e.keys[token], del)
	e.count++
}

// take removes and returns those of a key.
func (e *earlyFollowers) take(token string) []wire.Delivery {
	all := e.keys[token]
	delete(e.keys, token)
	e.count -= len(all)
	return all
}

// takeAll removes and returns those of all keys.
func (e *earlyFollowers) takeAll() (all []wire.Delivery) {
	for _, early := range e.keys {
		all = append(all, early...)
	}
	*e = earlyFollowers{}
	return all
}
