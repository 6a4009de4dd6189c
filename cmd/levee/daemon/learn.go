package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"levee/cmd/levee/config"
	"levee/cmd/levee/prober"
	"levee/proxy"
	"levee/proxy/servers"
	"levee/stack"
)

const (
	// saveEvery is how much knowledge a crash may cost.
	saveEvery = time.Minute
	// maxServersFile bounds what is read, in bytes: more than MaxCapacity servers take.
	maxServersFile = 512 << 20
	// maxFirstProbes is how many servers are probed at the start; others when clients come.
	maxFirstProbes = 256
)

// serversFile is where knowledge of the servers outlives the process.
func serversFile(stateDir string) string { return filepath.Join(stateDir, "servers.json") }

// openServers makes the table of servers from what is left of an earlier run, and keeps it: probes fill it, a file saves it.
func (d *daemon) openServers() error {
	if d.cfg.Learn.Probe {
		p, err := prober.New(d.cfg.Learn.Rate)
		if err != nil {
			d.log.Warn("servers are not probed", "error", err)
		}
		d.prober = p
	}
	d.servers = servers.New(servers.Config{
		Capacity: d.cfg.Learn.Capacity, WScale: proxy.DefaultWScale, ClosedFor: d.cfg.Learn.ClosedFor, Probes: d.prober != nil,
	})
	path := serversFile(d.cfg.StateDir)
	if n, err := loadServers(path, d.servers, d.start); err != nil {
		d.log.Warn("what was known of servers is lost", "file", path, "error", err)
	} else if n > 0 {
		d.log.Info("servers known", "servers", n)
	}
	d.background("knowledge of servers", func(ctx context.Context) {
		keepServers(ctx, path, d.servers, func(err error) { d.log.Warn("what is known of servers is not saved", "file", path, "error", err) })
	})
	if d.prober == nil {
		return nil
	}
	d.background("probes", func(ctx context.Context) {
		if err := d.prober.Run(ctx, d.servers); err != nil {
			d.log.Warn("the sockets of probes don't close", "error", err)
		}
	})
	for _, k := range firstProbes(d.cfg) {
		d.prober.Ask(k, servers.WhatItDoes)
	}
	return nil
}

// background runs f until it is undone.
func (d *daemon) background(what string, f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	d.undo.add(what, func() error {
		cancel()
		<-done
		return nil
	})
}

// firstProbes names the servers of services that list few.
func firstProbes(cfg config.Config) []servers.Key {
	var keys []servers.Key
	for i := range cfg.Services {
		s := &cfg.Services[i]
		if s.Mode == proxy.ModeOff || len(s.Ports) == 0 {
			continue
		}
		addresses, ports := 0, 0
		for _, p := range s.Prefixes {
			if host := p.Addr().BitLen() - p.Bits(); host > 8 {
				addresses = maxFirstProbes + 1
			} else {
				addresses += 1 << host
			}
		}
		for _, r := range s.Ports {
			ports += int(r.Last-r.First) + 1
		}
		if len(keys)+addresses*ports > maxFirstProbes {
			continue
		}
		for _, p := range s.Prefixes {
			for a := p.Addr(); p.Contains(a); a = a.Next() {
				keys = appendPorts(keys, a, s.Ports)
			}
		}
	}
	return keys
}

func appendPorts(keys []servers.Key, a netip.Addr, ranges []proxy.PortRange) []servers.Key {
	for _, r := range ranges {
		for port := int(r.First); port <= int(r.Last); port++ {
			keys = append(keys, servers.Key{Addr: stack.AddrFrom(a), Port: uint16(port)})
		}
	}
	return keys
}

// loadServers reads a file into an empty table; that there is none is no error.
func loadServers(path string, t *servers.Table, now time.Time) (int, error) {
	f, err := openState(path)
	if f == nil {
		return 0, err
	}
	defer f.Close()
	return t.Load(io.LimitReader(f, maxServersFile), now.Unix())
}

// keepServers saves the table every minute and at the end.
func keepServers(ctx context.Context, path string, t *servers.Table, report func(error)) {
	keepFile(ctx, path, func(w io.Writer) error { return t.Save(w, time.Now().Unix()) }, report)
}

// replaceFile writes a file for its owner only, such that whoever reads it finds the old or the new, whole.
func replaceFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("make a file: %w", withoutPath(err))
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
