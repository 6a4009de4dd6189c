package config

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"time"

	"levee/proxy"
	"levee/routes"
)

// DefaultFile is where every verb looks for the configuration unless told otherwise.
const DefaultFile = "/etc/levee/levee.yaml"

// Config is the whole configuration, checked.
type Config struct {
	TUN     TUN
	Routing Routing
	Flows   Flows
	Learn   Learn
	// Replies bounds answers to sources that may be forged.
	Replies proxy.Replies
	// StateDir holds the control socket, the lock and what routes has to restore. Absolute.
	StateDir string
	// SecretFile holds the master secret of the cookies. Absolute.
	SecretFile string
	// SecretShared says that other nodes have the same secret, whose cookies may come back to this one.
	SecretShared bool
	// Metrics is where the metrics are served; not valid means nowhere.
	Metrics  netip.AddrPort
	Log      Log
	Services []proxy.Service
}

// TUN is the device that protected traffic goes through.
type TUN struct {
	Name string
	// MTU in bytes; 0 means that it follows the interfaces.
	MTU int
	// Queues and thus workers, 1 to MaxQueues; 0 means two for SYNs and one for each CPU.
	Queues int
	// TxQueueLen is how many packets wait in each queue for its worker.
	TxQueueLen int
	// Steering says that SYNs get queues of their own if the kernel allows it.
	Steering bool
}

// Routing is how traffic gets into the TUN.
type Routing struct {
	// Manage says that levee makes the rules and routes itself.
	Manage bool
	// Table is the number of the routing table that is levee's own.
	Table int
	// Priority is that of the first of levee's rules; they need ten in a row.
	Priority int
	// Bypass says that traffic is forwarded without levee while it doesn't run; otherwise it is dropped.
	Bypass bool
	// Notrack says when this traffic is exempted from connection tracking.
	Notrack routes.Notrack
	// ClientInterfaces and ServerInterfaces are where packets of clients and of servers
	// come in; nil means that they are found by looking at the routes.
	ClientInterfaces, ServerInterfaces []string
}

// Flows is the flow table, see proxy.Config.
type Flows struct {
	Capacity                       int
	IdleTimeout, TransitoryTimeout time.Duration
	// EarlyDataMemory is the pool of early data, in bytes.
	EarlyDataMemory int
	Grace           time.Duration
}

// Learn is how levee gets to know its servers.
type Learn struct {
	// Probe says that levee may send SYNs of its own to them, Rate how many a second.
	Probe bool
	Rate  int
	// ClosedFor is how long a port that did not answer is not tried again; Capacity is how many addresses and ports are remembered.
	ClosedFor time.Duration
	Capacity  int
}

// Log is where slog starts.
type Log struct {
	Level slog.Level
	JSON  bool
}

// Bounds of what may be configured.
const (
	MaxQueues      = 16
	MinTxQueueLen  = 256
	MaxTxQueueLen  = 65536
	MaxServices    = 1024
	MaxPrefixes    = 4096 // of all services together: each costs kernel rules that are walked one by one
	MaxPortRanges  = 256  // of one service
	MaxPriority    = 32000
	MaxProbeRate   = 10000
	maxFileBytes   = 1 << 20
	maxSocketBytes = 107 // sun_path of unix(7) less its final zero byte
	maxIfnameBytes = 15  // IFNAMSIZ less its final zero byte
	maxNameBytes   = 63
)

// SocketPath is the control socket of the daemon that runs with this configuration.
func (c *Config) SocketPath() string { return socketPath(c.StateDir) }

func socketPath(stateDir string) string { return filepath.Join(stateDir, "control.sock") }

// Prefixes returns the protected prefixes of all services, each once, in the order of the file.
func (c *Config) Prefixes() []netip.Prefix {
	var all []netip.Prefix
	seen := make(map[netip.Prefix]bool)
	for _, s := range c.Services {
		for _, p := range s.Prefixes {
			if !seen[p] {
				seen[p] = true
				all = append(all, p)
			}
		}
	}
	return all
}
