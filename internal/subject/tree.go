package subject

// Tree is a set of patterns. The time to find one that matches a subject does not depend on the
// number of patterns. A Tree never changes. Safe for concurrent use.
type Tree struct{ root node }

// node is one position in the patterns.
type node struct {
	next     map[string]*node // by the next token
	wildcard *node            // for the next token "*"
	end      string           // the pattern that ends here, or ""
	tail     string           // the pattern that continues with ">", or ""
}

// NewTree returns the tree of patterns.
func NewTree(patterns []string) *Tree {
	t := &Tree{}
	for _, p := range patterns {
		t.root.add(p, p)
	}
	return t
}

// add adds pattern. left has the tokens of pattern below n.
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

// child returns the node below n for a token that is not ">". It makes the node if necessary.
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

// Find returns the pattern that matches subject, the most specific one of several, or "". It does
// not allocate.
func (t *Tree) Find(subject string) string { return t.root.find(subject) }

// find does the work of Find below n.
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
