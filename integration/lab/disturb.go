package lab

import "fmt"

// What an administrator, a cable or a network manager does to a link that is one veth pair.

// Down sets one end of the link down: the host's is a cable pulled out of the gateway, which keeps its settings but has no carrier.
func (l *Link) Down(e *End) error {
	link, err := e.link()
	if err == nil {
		err = e.Namespace.nl.LinkSetDown(link)
	}
	if err != nil {
		return fmt.Errorf("set %s down: %w", e, err)
	}
	return nil
}

// Up sets it up again, and gives back what went with it, as a network manager does: IPv6 addresses, neighbours, the host's routes.
func (l *Link) Up(e *End) error {
	link, err := e.link()
	if err == nil {
		err = e.Namespace.nl.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set %s up: %w", e, err)
	}
	return l.connect(l.subnet4, l.subnet6)
}

// Remove takes the link away, both ends of it, with all that is set up on it.
func (l *Link) Remove() error {
	link, err := l.Gateway.link()
	if err == nil {
		err = l.Gateway.Namespace.nl.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", &l.Gateway, err)
	}
	return nil
}

// Remake makes it anew after Remove, under the same names and with the same addresses.
func (l *Link) Remake() error {
	if err := pair(&l.Host, &l.Gateway); err != nil {
		return err
	}
	return l.connect(l.subnet4, l.subnet6)
}

// Rename gives the gateway's end another name.
func (l *Link) Rename(name string) error {
	link, err := l.Gateway.link()
	if err != nil {
		return err
	}
	nl := l.Gateway.Namespace.nl
	if err = nl.LinkSetDown(link); err == nil { // kernels before 6.2 want that
		err = nl.LinkSetName(link, name)
	}
	if err != nil {
		return fmt.Errorf("rename %s to %s: %w", &l.Gateway, name, err)
	}
	l.Gateway.Name = name
	return l.Up(&l.Gateway)
}
