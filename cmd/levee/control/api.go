package control

import (
	"net/netip"
	"time"

	"levee/proxy"
)

// Status is the daemon at one moment.
type Status struct {
	Version string `json:"version"`
	// Started is when the program began; an upgrade begins another.
	Started time.Time `json:"started"`
	// UptimeSeconds is whole seconds since the daemon started.
	UptimeSeconds int64 `json:"uptime_seconds"`
	// NotUpgraded is why the latest upgrade left the program that there was, which then began anew; empty if it didn't.
	NotUpgraded string `json:"not_upgraded,omitempty"`
	// Ready says that everything is in place and traffic is protected.
	Ready bool `json:"ready"`
	// Drain is there while levee drains.
	Drain         *Drain        `json:"drain,omitempty"`
	Configuration Configuration `json:"configuration"`
	Kernel        Kernel        `json:"kernel"`
	Flows         Flows         `json:"flows"`
	EarlyData     EarlyData     `json:"early_data"`
	Services      []Service     `json:"services"`
	// Floods are the latest of services of mode auto and monitor, the oldest first, 64 at most.
	Floods []Flood `json:"floods"`
	// Drops and Passed count packets by reason, every reason there is.
	Drops  map[string]uint64 `json:"drops"`
	Passed map[string]uint64 `json:"passed"`
	TUN    TUN               `json:"tun"`
	// Workers are in the order of the TUN's queues.
	Workers []Worker `json:"workers"`
}

// Kernel is what became of what levee has set up in the kernel.
type Kernel struct {
	// Problems are what levee can't put right, one line each: an interface that is down or gone, something of somebody else's in the way or ahead.
	Problems []string `json:"problems"`
	// Repairs counts how often something was put right since the start that others had changed: the tun, routing (rules and routes), notrack (the
	// exemption from connection tracking), sysctls;
	// and how often the rules have followed a change of interfaces.
	Repairs map[string]uint64 `json:"repairs"`
}

// Flows counts the flow table's entries.
type Flows struct {
	Open    int `json:"open"`
	Opening int `json:"opening"`
	// Closing flows are half-closed, Remembered ones are over and make room when it is needed.
	Closing    int `json:"closing"`
	Remembered int `json:"remembered"`
	Capacity   int `json:"capacity"`
	// Evicted counts remembered flows that had to make room before their time.
	Evicted uint64 `json:"evicted"`
	Kept    Kept   `json:"kept"`
}

// Kept says where the flows outlive the daemon.
type Kept struct {
	// File is empty if they don't, and Why says why.
	File string `json:"file,omitempty"`
	Why  string `json:"why,omitempty"`
	// Restored is with how many flows of an earlier process this one has gone on, and Lost of how many records in the file it has not.
	Restored int `json:"restored"`
	Lost     int `json:"lost"`
}

// EarlyData is the memory for what clients send before their servers answer, in bytes.
type EarlyData struct {
	Used int `json:"used_bytes"`
	Size int `json:"size_bytes"`
}

// Service is one service's counters, see proxy.ServiceSnapshot.
type Service struct {
	Name          string `json:"name"`
	Mode          string `json:"mode"`
	SynReceived   uint64 `json:"syn_received"`
	CookieValid   uint64 `json:"cookie_valid"`
	CookieInvalid uint64 `json:"cookie_invalid"`
	CookieRetrans uint64 `json:"cookie_retrans"`
	ConnReopened  uint64 `json:"conn_reopened"`
	Opened        uint64 `json:"opened"`
	Refused       uint64 `json:"refused"`
	Unreachable   uint64 `json:"unreachable"`
	TimedOut      uint64 `json:"timed_out"`
	Mismatched    uint64 `json:"mismatched"`
	ServerCookies uint64 `json:"server_cookies"`
	EarlyHeld     uint64 `json:"early_held"`
	ClosedReset   uint64 `json:"closed_reset"`
	Allowed       uint64 `json:"allowed"`
	Denied        uint64 `json:"denied"`
	Verified      uint64 `json:"verified"`
	UnknownReset  uint64 `json:"unknown_reset"`
	Adopted       uint64 `json:"adopted"`
	// SynPassed counts SYNs that went to the server as they were, in the modes auto and monitor.
	SynPassed uint64 `json:"syn_passed"`
	// HalfOpenReset counts handshakes that had passed, before a flood was noticed or within bypass_rate, and were ended at the server because nobody
	// answered it.
	HalfOpenReset uint64 `json:"half_open_reset"`
	Flows         int    `json:"flows"`
	// Engagement is null unless floods are looked for.
	Engagement *Engagement `json:"engagement"`
	// Rates are over the last ten seconds, or since its flood has begun if that is less.
	Rates Rates `json:"rates"`
	// FloodSeconds is for how long the service has been flooded, 0 if it isn't: engaged, or would be, if floods are looked for, and otherwise with a
	// thousand SYNs a second and four for each valid cookie.
	FloodSeconds float64 `json:"flood_seconds"`
}

// Rates are counts a second.
type Rates struct {
	// Syn counts those that are answered and those that pass.
	Syn         float64 `json:"syn"`
	CookieValid float64 `json:"cookie_valid"`
	// Opened connections, and those of clients with a valid cookie that failed because of the server.
	Opened float64 `json:"opened"`
	Failed float64 `json:"failed"`
}

// TUN is the device.
type TUN struct {
	Name   string `json:"name"`
	Queues int    `json:"queues"`
	// Offload lists what the kernel granted, such as csum,tso4,tso6,ecn.
	Offload string `json:"offload"`
	// Steering is "ebpf" if SYNs have queues to themselves, otherwise "none: " and why.
	Steering string `json:"steering"`
	// OnFailure is what becomes of traffic while nobody reads from it: "block" or "bypass"; empty if the routing isn't levee's.
	OnFailure string `json:"on_failure,omitempty"`
	// Notrack says whether protected traffic is exempted from connection tracking: "exempt", "not tracked" where the kernel tracks nothing, or "tracked", in which
	// case what drops invalid states breaks its connections; empty if the routing isn't levee's, or can't be read now.
	Notrack string `json:"notrack,omitempty"`
	// RxDrops and TxDrops are the kernel's: packets from levee, and packets for levee.
	RxDrops uint64 `json:"rx_drops"`
	TxDrops uint64 `json:"tx_drops"`
	// Rings are by queue; none without steering.
	Rings []Ring `json:"rings,omitempty"`
}

// Ring is what became of the packets that the kernel chose a queue for. Dropped is exact if Exact; otherwise packets
// were waiting when it was read, or the kernel has split some, and it is the least that it can be.
type Ring struct {
	// Takes is first_syns, repeated_syns or flows.
	Takes   string `json:"takes"`
	Chosen  uint64 `json:"chosen"`
	Dropped uint64 `json:"dropped"`
	Exact   bool   `json:"exact"`
}

// Worker is one worker's traffic: frames, of which a superpacket is one, and bytes of IP packet.
type Worker struct {
	Received      uint64 `json:"received"`
	Sent          uint64 `json:"sent"`
	ReceivedBytes uint64 `json:"received_bytes"`
	SentBytes     uint64 `json:"sent_bytes"`
}

// Flow is one flow, see proxy.FlowInfo.
type Flow struct {
	Client  netip.AddrPort `json:"client"`
	Server  netip.AddrPort `json:"server"`
	Service string         `json:"service"`
	State   string         `json:"state"`
	// AgeSeconds and IdleSeconds have three decimals at most.
	AgeSeconds  float64 `json:"age_seconds"`
	IdleSeconds float64 `json:"idle_seconds"`
	Delta       uint32  `json:"delta"`
	TSDelta     uint32  `json:"ts_delta"`
	ClientBytes uint64  `json:"client_bytes"`
	ServerBytes uint64  `json:"server_bytes"`
}

// NewStatus fills in what a snapshot knows.
func NewStatus(s proxy.Snapshot) Status {
	status := Status{
		Flows: Flows{
			Open:       s.Flows[proxy.StateOpen],
			Opening:    s.Flows[proxy.StateOpening],
			Closing:    s.Flows[proxy.StateClientClosed] + s.Flows[proxy.StateServerClosed],
			Remembered: s.Flows[proxy.StateTimeWait] + s.Flows[proxy.StateReset],
			Capacity:   s.Capacity,
			Evicted:    s.Evicted,
		},
		EarlyData: EarlyData{Used: s.EarlyUsed, Size: s.EarlySize},
		Services:  []Service{},
		Floods:    []Flood{},
		Drops:     make(map[string]uint64),
		Passed:    make(map[string]uint64),
		Workers:   []Worker{},
	}
	for i := range s.Services {
		v := &s.Services[i]
		status.Services = append(status.Services, Service{
			Name: v.Name, Mode: v.Mode.String(),
			SynReceived: v.SynReceived, CookieValid: v.CookieValid, CookieInvalid: v.CookieInvalid,
			CookieRetrans: v.CookieRetrans, ConnReopened: v.ConnReopened,
			Opened: v.Opened, Refused: v.Refused, Unreachable: v.Unreachable, TimedOut: v.TimedOut, Mismatched: v.Mismatched, ServerCookies: v.ServerCookies,
			EarlyHeld: v.EarlyHeld, ClosedReset: v.ClosedReset,
			Allowed: v.Allowed, Denied: v.Denied, Verified: v.Verified, UnknownReset: v.UnknownReset, Adopted: v.Adopted,
			SynPassed: v.SynPassed, HalfOpenReset: v.HalfOpenReset, Flows: v.Flows, Engagement: newEngagement(v),
		})
	}
	for r, n := range s.Drops {
		status.Drops[proxy.DropReason(r).String()] = n
	}
	for r, n := range s.Passed {
		status.Passed[proxy.PassReason(r).String()] = n
	}
	for _, w := range s.Workers {
		status.Workers = append(status.Workers, Worker(w))
	}
	return status
}

func newFlow(f proxy.FlowInfo) Flow {
	return Flow{
		Client: f.Client, Server: f.Server, Service: f.Service, State: f.State.String(),
		AgeSeconds: seconds(f.Age), IdleSeconds: seconds(f.Idle),
		Delta: f.Delta, TSDelta: f.TSDelta,
		ClientBytes: f.ClientBytes, ServerBytes: f.ServerBytes,
	}
}

// seconds rounds to milliseconds: nobody reads more.
func seconds(d time.Duration) float64 {
	return float64(d.Milliseconds()) / 1000
}
