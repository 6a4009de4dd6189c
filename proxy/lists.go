package proxy

import (
	"fmt"
	"net/netip"

	"github.com/gaissmai/bart"
	"levee/stack"
)

// listing is what a service's lists say about a source.
type listing uint8

const (
	unlisted listing = iota
	// allowed sources shake hands with the servers themselves.
	allowed
	// denied sources open no connection, and belong to none that levee doesn't know.
	denied
)

// lists finds the longest prefix of a service's Allow and Deny that holds an address. It does not change once it is made.
type lists struct{ prefixes bart.Table[listing] }

func newLists(s *Service) *lists {
	if len(s.Allow)+len(s.Deny) == 0 {
		return nil
	}
	l := &lists{}
	for _, p := range s.Allow {
		l.prefixes.Insert(p, allowed)
	}
	for _, p := range s.Deny {
		l.prefixes.Insert(p, denied)
	}
	return l
}

// of is what is said about an address.
func (l *lists) of(a *stack.Addr) listing {
	if l == nil {
		return unlisted
	}
	found, _ := l.prefixes.Lookup(a.Netip())
	return found
}

// deny drops the packet in work because of its source.
func (w *Worker) deny(svc *service) {
	w.count(svc).denied.inc()
	w.drop(DropDenied)
}

// validateLists says what is wrong with the lists.
func (s *Service) validateLists() error {
	onAllow := make(map[netip.Prefix]bool, len(s.Allow))
	for _, list := range [...]struct {
		name     string
		prefixes []netip.Prefix
	}{{"allow", s.Allow}, {"deny", s.Deny}} {
		for _, p := range list.prefixes {
			if !canonical(p) {
				return fmt.Errorf("%s: prefix %s: write it masked, IPv4 as IPv4", list.name, p)
			}
			switch {
			case list.name == "allow":
				onAllow[p] = true
			case onAllow[p]:
				return fmt.Errorf("prefix %s is allowed and denied: choose one", p)
			}
		}
	}
	return nil
}

// canonical says whether a prefix is written the one way that tables know.
func canonical(p netip.Prefix) bool { return p.IsValid() && p == p.Masked() && !p.Addr().Is4In6() }
