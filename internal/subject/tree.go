package subject

// Tree is a set of patterns in which the time to find those that match a subject
// does not grow with their number. It never changes, so any number of goroutines
// may use it.
type Tree struct{ root node }

// node is what the patterns have at one token.
type node struct {
	next     map[string]*node // by the literal token
	wildcard *node            // after "*"
	end      string           // the pattern that ends here, or ""
	tail     string           // the pattern that goes on with ">", or ""
}

// NewTree returns the tree of patterns.
func NewTree(patterns []string) *Tree {
	t := &Tree{}
	for _, p := range patterns {
		t.root.add(p, p)
	}
	return t
}

// add enters pattern, of which the tokens in left are to be gone.
func (n *node) add(left, pattern string) {
	token, left, more := next(left)
	if token == anyTail {
		n.tail = pattern
		return
	}
	child := n.child(token)
	if !more {
		child.end = pattern
		return
	}
	child.add(left, pattern)
}

// child returns the node after a token that is not ">", which it makes.
func (n *node) child(token string) *node {
	if token == anyToken {
		if n.wildcard == nil {
			n.wildcard = &node{}
		}
		return n.wildcard
	}
	if n.next == nil {
		n.next = make(map[string]*node)
	}
	if n.next[token] == nil {
		n.next[token] = &node{}
	}
	return n.next[token]
}

// Find returns the pattern that matches the literal subject, the most specific one
// where several do, and "" where none does. It does not allocate.
func (t *Tree) Find(subject string) string { return t.root.find(subject) }

func (n *node) find(subject string) string {
	token, left, more := next(subject)
	for _, child := range [...]*node{n.next[token], n.wildcard} {
		switch {
		case child == nil || token == "":
		case more:
			if p := child.find(left); p != "" {
				return p
			}
		case child.end != "":
			return child.end
		}
	}
	if subject == "" {
		return ""
	}
	return n.tail
}
