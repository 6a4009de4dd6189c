package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// service wraps what is wrong in a file that is otherwise good.
func service(fields string) string {
	return "services: [{name: web, prefixes: [192.0.2.0/24], " + fields + "}]"
}

func prefix(p string) string { return "services: [{name: web, prefixes: [" + p + "]}]" }

// Each of these is refused with exactly these lines, FILE being the file.
var broken = []struct {
	name, text string
	want       []string
}{
	// The file as a whole.
	{"empty", "", []string{`FILE: services: there are none, so nothing would be protected: add one with a name and prefixes`}},
	{"no YAML", "tun: [", []string{`FILE: not valid YAML: line 1, "tun: [": did not find expected node content: levee.example.yaml shows how it is written`}},
	{"tab", "tun:\n\tname: x\n", []string{`FILE: not valid YAML: line 2, "name: x": found character that cannot start any token: indent with spaces, not with tabs`}},
	{"elements behind an empty list", "tun: {}\nservices: [] # none\n\n# these\n  - name: web\n    prefixes: [192.0.2.0/24]\n", []string{
		`FILE: not valid YAML: line 5, "- name: web": did not find expected key: take the [] out of line 2, whose elements follow`}},
	{"indented by one too few", "services:\n  - name: web\n   prefixes: [192.0.2.0/24]\n", []string{
		`FILE: not valid YAML: line 3, "prefixes: [192.0.2.0/24]": did not find expected '-' indicator: levee.example.yaml shows how it is written`}},
	{"no YAML, and long", strings.Repeat("# padding\n", maxFaultBytes/10) + "tun: [", []string{`FILE: not valid YAML: line 1639: did not find expected node content`}},
	{"duplicate key", "tun: {name: a, name: b}\n" + minimal, []string{`FILE: not a valid configuration: line 1: mapping key "name" already defined at line 1`}},
	{"duplicate section", "tun: {}\n" + minimal + "\ntun: {}\n", []string{`FILE: not a valid configuration: line 3: mapping key "tun" already defined at line 1`}},
	{"second document", minimal + "\n---\ntun: {}\n", []string{`FILE: not valid YAML: a second document after ---: put everything into one`}},
	{"just a word", "hello", []string{"FILE: not a valid configuration: no section: begin with one, such as \"services:\""}},
	{"just a list", "- {name: web, prefixes: [192.0.2.0/24]}\n", []string{"FILE: not a valid configuration: no section: begin with one, such as \"services:\""}},
	{"aliases of aliases", "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n",
		[]string{"FILE: not valid YAML: document contains excessive aliasing"}},
	{"too long", strings.Repeat("# padding\n", maxFileBytes/10+1), []string{`FILE: longer than 1048576 bytes: give levee a file that it can read with --config`}},

	// Keys and shapes.
	{"unknown section", "tunn: {name: x}\n" + minimal, []string{`FILE: tunn: unknown key: did you mean tun?`}},
	{"unknown key, nothing near", "log: {colour: true}\n" + minimal, []string{`FILE: log.colour: unknown key: use one of level, format`}},
	{"unknown key without a value", "tun: {mut: }\n" + minimal, []string{`FILE: tun.mut: unknown key: did you mean mtu?`}},
	{"upper case", "TUN: {name: x}\n" + minimal, []string{`FILE: TUN: unknown key: did you mean tun?`}},
	{"unknown key of routing", "routing: {connections: auto}\n" + minimal, []string{`FILE: routing.connections: unknown key: use one of manage, table, priority, on_failure, notrack, client_interfaces, server_interfaces`}},
	{"notrack", "routing: {notrack: maybe}\n" + minimal, []string{`FILE: routing.notrack: "maybe" is unknown: use auto, on or off`}},
	{"on_failure", "routing: {on_failure: open}\n" + minimal, []string{`FILE: routing.on_failure: "open" is unknown: use bypass or block`}},
	{"unknown key of a service", service("accel: xdp"), []string{`FILE: services[0].accel: unknown key: use one of name, prefixes, ports, mode, engage, options, bypass_rate, early_data, server_ack, closed_ports, unknown, allow, deny, verified, per_source`}},
	{"key with a line end", "\"a\\nb\": 1\n" + minimal, []string{`FILE: "a\nb": unknown key: use one of tun, routing, flows, replies, learn, state_dir, secret_file, secret_shared, metrics, log, defaults, services`}},
	{"value for section", "tun: tun0\n" + minimal, []string{`FILE: tun: the value "tun0" where a section is due: use one or more of name, mtu, queues, txqueuelen, steering`}},
	{"list for value", "tun: {name: [a]}\n" + minimal, []string{`FILE: tun.name: a list where one value is due`}},
	{"section for services", "services: {name: web}", []string{`FILE: services: a section where a list is due: begin each element with "- "`}},
	{"word for a service", "services: [web]", []string{`FILE: services[0]: the value "web" where a section is due: use one or more of name, prefixes, ports, mode, engage, options, bypass_rate, early_data, server_ack, closed_ports, unknown, allow, deny, verified, per_source`}},
	{"nothing for a port", service("ports: [80, ~]"), []string{`FILE: services[0].ports[1]: nothing where something is due`}},
	{"nothing for a service", "services: [~]", []string{`FILE: services[0]: nothing where something is due`}},
	{"list in list", service("ports: [[80]]"), []string{`FILE: services[0].ports[0]: a list where one value is due`}},
	{"date for text", "services: [{name: 2026-01-01, prefixes: [192.0.2.0/24]}]", []string{`FILE: services[0].name: a date (put it in quotes if it is text) where one value is due`}},

	// Scalars.
	{"MTU below IPv6's", "tun: {mtu: 1279}\n" + minimal, []string{`FILE: tun.mtu: "1279" is neither auto nor a whole number from 1280 to 65535`}},
	{"MTU too large", "tun: {mtu: 65536}\n" + minimal, []string{`FILE: tun.mtu: "65536" is neither auto nor a whole number from 1280 to 65535`}},
	{"no queue", "tun: {queues: 0}\n" + minimal, []string{`FILE: tun.queues: "0" is neither auto nor a whole number from 1 to 16`}},
	{"too many queues", "tun: {queues: 17}\n" + minimal, []string{`FILE: tun.queues: "17" is neither auto nor a whole number from 1 to 16`}},
	{"short queue", "tun: {txqueuelen: 10}\n" + minimal, []string{`FILE: tun.txqueuelen: "10" is not a whole number from 256 to 65536`}},
	{"fraction", "tun: {txqueuelen: 4096.5}\n" + minimal, []string{`FILE: tun.txqueuelen: "4096.5" is not a whole number from 256 to 65536`}},
	{"TUN name too long", "tun: {name: a234567890123456}\n" + minimal, []string{`FILE: tun.name: "a234567890123456" is too long for the name of an interface: at most 15 characters`}},
	{"TUN name with a pattern", "tun: {name: tun%d}\n" + minimal, []string{`FILE: tun.name: "tun%d" can't name the TUN: use letters, digits, _, . and -, such as tun0`}},
	{"TUN name is a path", "tun: {name: ../x}\n" + minimal, []string{`FILE: tun.name: "../x" can't name the TUN: use letters, digits, _, . and -, such as tun0`}},
	{"TUN name means every interface", "tun: {name: all}\n" + minimal, []string{`FILE: tun.name: "all" can't name the TUN: use letters, digits, _, . and -, such as tun0`}},
	{"neither true nor false", "routing: {manage: off}\n" + minimal, []string{`FILE: routing.manage: "off" is neither true nor false`}},
	{"table 0", "routing: {table: 0}\n" + minimal, []string{`FILE: routing.table: "0" is not the number of a table: use 1 to 2147483647`}},
	{"table main", "routing: {table: 254}\n" + minimal, []string{`FILE: routing.table: 254 is the kernel's table "main": use one of levee's own`}},
	{"table by name", "routing: {table: levee}\n" + minimal, []string{`FILE: routing.table: "levee" is not the number of a table: use 1 to 2147483647`}},
	{"priority behind main", "routing: {priority: 32766}\n" + minimal, []string{`FILE: routing.priority: "32766" is not a whole number from 1 to 32000`}},
	{"no interfaces", "routing: {client_interfaces: []}\n" + minimal, []string{`FILE: routing.client_interfaces: the list is empty: use auto or name at least one interface`}},
	{"auto among interfaces", "routing: {client_interfaces: [eth0, auto]}\n" + minimal, []string{`FILE: routing.client_interfaces[1]: auto stands alone: use either auto or a list of names`}},
	{"interface twice", "routing: {server_interfaces: [eth0, eth0]}\n" + minimal, []string{`FILE: routing.server_interfaces[1]: "eth0" is listed twice: remove one`}},
	{"the TUN as interface", "routing: {server_interfaces: [tun0]}\n" + minimal, []string{`FILE: routing.server_interfaces[0]: "tun0" is the TUN itself: name the interfaces where packets come from`}},
	{"interface too long", "routing: {server_interfaces: [a234567890123456]}\n" + minimal, []string{`FILE: routing.server_interfaces[0]: "a234567890123456" can't be the name of an interface`}},
	{"no capacity", "flows: {capacity: 0}\n" + minimal, []string{`FILE: flows.capacity: "0" is not a whole number from 1 to 67108864`}},
	{"capacity beyond numbers", "flows: {capacity: 99999999999999999999}\n" + minimal, []string{`FILE: flows.capacity: "1e+20" is not a whole number from 1 to 67108864`}},
	{"duration without unit", "flows: {idle_timeout: 7440}\n" + minimal, []string{`FILE: flows.idle_timeout: "7440" is not a duration: write a number with its unit, such as 90s, 4m or 2h4m`}},
	{"duration too short", "flows: {transitory_timeout: 10ms}\n" + minimal, []string{`FILE: flows.transitory_timeout: "10ms" is out of range: use 1s to 168h0m0s`}},
	{"relative path", "state_dir: run/levee\n" + minimal, []string{`FILE: state_dir: "run/levee" is not an absolute path: begin it with /`}},
	{"path too long for a socket", "state_dir: /" + strings.Repeat("x", 95) + "\n" + minimal, []string{
		`FILE: state_dir: "/` + strings.Repeat("x", 63) + `"… is too long for a socket in it (109 bytes, at most 107): choose a shorter path`}},
	{"metrics by host name", "metrics: {listen: localhost:9742}\n" + minimal, []string{`FILE: metrics.listen: "localhost:9742" is not an IP address and port: write it like 127.0.0.1:9742, or "none" for no metrics`}},
	{"metrics on no port", "metrics: {listen: 127.0.0.1:0}\n" + minimal, []string{`FILE: metrics.listen: "127.0.0.1:0" is not an IP address and port: write it like 127.0.0.1:9742, or "none" for no metrics`}},
	{"log level", "log: {level: verbose}\n" + minimal, []string{`FILE: log.level: "verbose" is unknown: use debug, info, warn or error`}},
	{"log format", "log: {format: xml}\n" + minimal, []string{`FILE: log.format: "xml" is unknown: use text or json`}},
	{"default mode", "defaults: {mode: watch}\n" + minimal, []string{`FILE: defaults.mode: "watch" is not a mode: use auto, always, monitor or off`}},
	{"unknown key of engage", service("engage: {syns: 5}"), []string{`FILE: services[0].engage.syns: unknown key: use one of half_open, syn_rate, hold`}},
	{"number for engage", service("engage: 5"), []string{`FILE: services[0].engage: the value "5" where a section is due: use one or more of half_open, syn_rate, hold`}},
	{"engage, half_open", service("engage: {half_open: 0}"), []string{`FILE: services[0].engage.half_open: "0" is neither auto nor a whole number from 1 to 65536`}},
	{"engage, half_open beyond", service("engage: {half_open: 65537}"), []string{`FILE: services[0].engage.half_open: "65537" is neither auto nor a whole number from 1 to 65536`}},
	{"engage, syn_rate", service("engage: {syn_rate: lots}"), []string{`FILE: services[0].engage.syn_rate: "lots" is neither auto nor a whole number from 1 to 10000000`}},
	{"engage, hold without a unit", service("engage: {hold: 60}"), []string{`FILE: services[0].engage.hold: "60" is not a duration: write a number with its unit, such as 90s, 4m or 2h4m`}},
	{"engage, hold out of range", service("engage: {hold: 10ms}"), []string{`FILE: services[0].engage.hold: "10ms" is out of range: use 1s to 24h0m0s`}},
	{"engage of the defaults", "defaults: {engage: {half_open: -1, hold: 25h}}\n" + minimal, []string{
		`FILE: defaults.engage.half_open: "-1" is neither auto nor a whole number from 1 to 65536`, `FILE: defaults.engage.hold: "25h" is out of range: use 1s to 24h0m0s`}},

	// Services.
	{"no name", "services: [{prefixes: [192.0.2.0/24]}]", []string{`FILE: services[0].name: missing: every service needs one, for status and metrics`}},
	{"name with a space", `services: [{name: "my web", prefixes: [192.0.2.0/24]}]`, []string{`FILE: services[0].name: "my web" can't be a label: use 1 to 63 of a-z, 0-9, _ and -`}},
	{"name too long", "services: [{name: " + strings.Repeat("x", 64) + ", prefixes: [192.0.2.0/24]}]", []string{
		`FILE: services[0].name: "` + strings.Repeat("x", 64) + `" can't be a label: use 1 to 63 of a-z, 0-9, _ and -`}},
	{"name twice", `services: [{name: web, prefixes: [192.0.2.0/25]}, {name: web, prefixes: [192.0.2.128/25]}]`, []string{`FILE: services[1].name: "web" is also the name of services[0]: rename one`}},
	{"mode is no word", service("mode: true"), []string{`FILE: services[0].mode: "true" is not a mode: use auto, always, monitor or off`}},
	{"no prefixes", "services: [{name: web}]", []string{`FILE: services[0].prefixes: missing: name the servers to protect, such as 192.0.2.0/24`}},
	{"prefix: host bits", prefix("192.0.2.7/24"), []string{`FILE: services[0].prefixes[0]: "192.0.2.7/24" has bits set behind its length: 192.0.2.0/24 is meant, or 192.0.2.7/32 for this one address`}},
	{"prefix: v6 host bits", prefix("'2001:db8::1/64'"), []string{`FILE: services[0].prefixes[0]: "2001:db8::1/64" has bits set behind its length: 2001:db8::/64 is meant, or 2001:db8::1/128 for this one address`}},
	{"prefix: no length", prefix("192.0.2.7"), []string{`FILE: services[0].prefixes[0]: "192.0.2.7" has no length: write 192.0.2.7/32 for this one address`}},
	{"prefix: length of the wrong family", prefix("192.0.2.0/64"), []string{`FILE: services[0].prefixes[0]: "192.0.2.0/64" is not a prefix: write an address and a length, such as 192.0.2.0/24 or 2001:db8:1::/64`}},
	{"prefix: IPv4 as IPv6", prefix("'::ffff:192.0.2.0/120'"), []string{`FILE: services[0].prefixes[0]: "::ffff:192.0.2.0/120" is IPv4 written as IPv6: write 192.0.2.0/24`}},
	{"prefix: unspecified", prefix("'::/64'"), []string{`FILE: services[0].prefixes[0]: "::/64" holds addresses that are never routed (the unspecified address, ::/128): leave them out`}},
	{"prefix: IPv4 as IPv6 inside", prefix("'::fff0:0:0/92'"), []string{`FILE: services[0].prefixes[0]: "::fff0:0:0/92" holds IPv4 written as IPv6 (::ffff:0.0.0.0/96): leave it out`}},
	{"prefix: host name", prefix("www.example.com"), []string{`FILE: services[0].prefixes[0]: "www.example.com" is not a prefix: write an address and a length, such as 192.0.2.0/24 or 2001:db8:1::/64`}},
	{"prefix: everything", prefix("0.0.0.0/0"), []string{`FILE: services[0].prefixes[0]: "0.0.0.0/0" is every address there is: name the prefixes of the servers`}},
	{"prefix: everything v6", prefix("'::/0'"), []string{`FILE: services[0].prefixes[0]: "::/0" is every address there is: name the prefixes of the servers`}},
	{"prefix: loopback", prefix("127.0.0.0/24"), []string{`FILE: services[0].prefixes[0]: "127.0.0.0/24" holds addresses that are never routed (loopback, 127.0.0.0/8): leave them out`}},
	{"prefix: multicast", prefix("'ff02::1/128'"), []string{`FILE: services[0].prefixes[0]: "ff02::1/128" holds addresses that are never routed (multicast, ff00::/8): leave them out`}},
	{"prefix: link-local", prefix("'fe80::/64'"), []string{`FILE: services[0].prefixes[0]: "fe80::/64" holds addresses that are never routed (link-local, fe80::/10): leave them out`}},
	{"prefix twice", prefix("192.0.2.0/24, 192.0.2.128/25"), []string{`FILE: services[0].prefixes[1]: 192.0.2.128/25 overlaps 192.0.2.0/24 of the same service: keep the wider one`}},
	{"port 0", service("ports: [0]"), []string{`FILE: services[0].ports[0]: "0" is not a port: use 1 to 65535, or a range such as 8000-8100`}},
	{"port too large", service("ports: [80, 70000]"), []string{`FILE: services[0].ports[1]: "70000" is not a port: use 1 to 65535, or a range such as 8000-8100`}},
	{"port negative", service("ports: [-80]"), []string{`FILE: services[0].ports[0]: "-80" is not a port: use 1 to 65535, or a range such as 8000-8100`}},
	{"port by name", service("ports: [http]"), []string{`FILE: services[0].ports[0]: "http" is not a port: use 1 to 65535, or a range such as 8000-8100`}},
	{"range reversed", service("ports: [8100-8000]"), []string{`FILE: services[0].ports[0]: "8100-8000" ends before it begins: write 8000-8100`}},
	{"range too large", service("ports: [8000-80000]"), []string{`FILE: services[0].ports[0]: "8000-80000" is not a port: use 1 to 65535, or a range such as 8000-8100`}},
	{"port twice", service("ports: [80-90, 85]"), []string{`FILE: services[0].ports[1]: 85 overlaps 80-90 of the same service: give each port once`}},
	{"port twice, the wider later", service("ports: [80, 70-90]"), []string{`FILE: services[0].ports[1]: 70-90 overlaps 80 of the same service: give each port once`}},
	{"MSS too small", service("options: {mss: 87}"), []string{`FILE: services[0].options.mss: "87" is neither auto nor a whole number from 88 to 65495`}},
	{"MSS too large", service("options: {mss: 65496}"), []string{`FILE: services[0].options.mss: "65496" is neither auto nor a whole number from 88 to 65495`}},
	{"window scale", service("options: {wscale: 15}"), []string{`FILE: services[0].options.wscale: "15" is not a window scale: use auto, none or 0 to 14`}},
	{"SACK", service("options: {sack: yes}"), []string{`FILE: services[0].options.sack: "yes" is neither auto nor true nor false`}},
	{"timestamps", service("options: {timestamps: 1}"), []string{`FILE: services[0].options.timestamps: "1" is neither auto nor true nor false`}},
	{"ECN", service("options: {ecn: learned}"), []string{`FILE: services[0].options.ecn: "learned" is neither auto nor true nor false`}},
	{"unknown segments", service("unknown: reject"), []string{`FILE: services[0].unknown: "reject" is not known: use drop, pass or reset`}},
	{"unknown segments of all", "defaults: {unknown: 1}\n" + minimal, []string{`FILE: defaults.unknown: "1" is not known: use drop, pass or reset`}},
	{"grace", "flows: {grace: 25h}\n" + minimal, []string{`FILE: flows.grace: "25h" is out of range: use 0s to 24h0m0s`}},
	{"grace without a unit", "flows: {grace: 60}\n" + minimal, []string{`FILE: flows.grace: "60" is not a duration: write a number with its unit, such as 90s, 4m or 2h4m`}},
	{"no replies", "replies: {per_network: 0}\n" + minimal, []string{`FILE: replies.per_network: "0" is not a whole number from 1 to 100000000`}},
	{"no replies to neighbours", "replies: {neighbours: none}\n" + minimal, []string{`FILE: replies.neighbours: "none" is not a whole number from 1 to 100000000`}},
	{"verified for ever", service("verified: {ttl: 48h, rate: 5}"), []string{`FILE: services[0].verified.ttl: "48h" is out of range: use 1s to 24h0m0s`}},
	{"verified for no time", service("verified: {ttl: 0s}"), []string{`FILE: services[0].verified.ttl: "0s" is out of range: use 1s to 24h0m0s`}},
	{"verified rate", service("verified: {rate: 1001}"), []string{`FILE: services[0].verified.rate: "1001" is not a whole number from 0 to 1000`}},
	{"verified as a switch", service("verified: true"), []string{`FILE: services[0].verified: the value "true" where a section is due: use one or more of ttl, rate`}},
	{"flows of a source", service("per_source: {flows: -1}"), []string{`FILE: services[0].per_source.flows: "-1" is not a whole number from 0 to 1000000`}},
	{"rate of a source", service("per_source: {rate: 1/s}"), []string{`FILE: services[0].per_source.rate: "1/s" is not a whole number from 0 to 1000000`}},
	{"allowed host name", service("allow: [203.0.113.1, proxy.example.com]"), []string{`FILE: services[0].allow[1]: "proxy.example.com" is neither a prefix nor an address: write it like 203.0.113.0/24, 2001:db8:5::/48 or 203.0.113.7`}},
	{"denied with bits behind its length", service("deny: [203.0.113.1/24]"), []string{`FILE: services[0].deny[0]: "203.0.113.1/24" has bits set behind its length: 203.0.113.0/24 is meant, or 203.0.113.1 for this one address`}},
	{"denied IPv4 as IPv6", service("deny: ['::ffff:203.0.113.0/120']"), []string{`FILE: services[0].deny[0]: "::ffff:203.0.113.0/120" is IPv4 written as IPv6: write it as IPv4`}},
	{"allowed and denied", service("allow: [203.0.113.0/24, 198.51.100.7], deny: [198.51.100.7/32]"), []string{`FILE: services[0].deny: 198.51.100.7/32 is also on the list allow: take it off one`}},
	{"list that isn't there", service("deny: ['@/nowhere/deny.txt']"), []string{`FILE: services[0].deny[0]: /nowhere/deny.txt: no such file or directory: make it readable, or take it off the list`}},
	{"list by a relative path", service("deny: ['@deny.txt']"), []string{`FILE: services[0].deny[0]: "@deny.txt" is not a file: write @ and an absolute path, such as @/etc/levee/deny.txt`}},
	{"list that is a folder", service("allow: ['@/']"), []string{`FILE: services[0].allow[0]: /: not a regular file: write the prefixes into one`}},
	{"closed ports", service("closed_ports: reject"), []string{`FILE: services[0].closed_ports: "reject" is unknown: use reset, drop or accept`}},
	{"probe", "learn: {probe: on}\n" + minimal, []string{`FILE: learn.probe: "on" is neither true nor false`}},
	{"no probes by rate", "learn: {rate: 0}\n" + minimal, []string{`FILE: learn.rate: "0" is not a whole number from 1 to 10000`}},
	{"closed for nothing", "learn: {closed_for: 0s}\n" + minimal, []string{`FILE: learn.closed_for: "0s" is out of range: use 1s to 168h0m0s`}},
	{"too many servers", "learn: {capacity: 1048577}\n" + minimal, []string{`FILE: learn.capacity: "1048577" is not a whole number from 1 to 1048576`}},
	{"bypass rate", service("bypass_rate: -1"), []string{`FILE: services[0].bypass_rate: "-1" is not a whole number from 0 to 1000000`}},
	{"early data without a known unit", service("early_data: 16KB"), []string{`FILE: services[0].early_data: "16KB" is not a size: write bytes, or a number with its unit, such as 16KiB or 64MiB`}},
	{"early data beyond a window", service("early_data: 64KiB"), []string{`FILE: services[0].early_data: "64KiB" is too large: at most 65535 bytes`}},
	{"server's ACK", service("server_ack: paced"), []string{`FILE: services[0].server_ack: "paced" is not known: use immediate or unmeasured`}},
	{"early data below 0", "defaults: {early_data: -1}\n" + minimal, []string{`FILE: defaults.early_data: "-1" is not a size: write bytes, or a number with its unit, such as 16KiB or 64MiB`}},
	{"memory for early data", "flows: {early_data_memory: 2GiB}\n" + minimal, []string{`FILE: flows.early_data_memory: "2GiB" is too large: at most 1073741824 bytes`}},
	{"services overlap", `services: [{name: all, prefixes: [192.0.2.0/24]}, {name: web, prefixes: [192.0.2.7/32], ports: [80]}]`, []string{
		`FILE: services[1]: "web" (192.0.2.7/32) overlaps "all" (192.0.2.0/24) on port 80: give each address and port to one service`}},
	{"services overlap in a range", `services: [{name: a, prefixes: ['2001:db8::/32'], ports: [1-100]}, {name: b, prefixes: ['2001:db8:1::/64'], ports: [90-200]}]`, []string{
		`FILE: services[1]: "b" (2001:db8:1::/64) overlaps "a" (2001:db8::/32) on ports 90-100: give each address and port to one service`}},
	{"services overlap wholly", `services: [{name: a, prefixes: [192.0.2.0/24]}, {name: b, prefixes: [192.0.2.0/24]}]`, []string{
		`FILE: services[1]: "b" (192.0.2.0/24) overlaps "a" (192.0.2.0/24) on every port: give each address and port to one service`}},
	{"too many services", "services: [" + strings.Repeat("{name: x},", MaxServices+1) + "]", []string{`FILE: services: 1025 are too many: at most 1024`}},
	{"too many prefixes", prefix(strings.Repeat("192.0.2.0/32,", MaxPrefixes+1)), []string{`FILE: services: 4097 prefixes are too many: at most 4096 in all services together`}},
	{"too many ports", service("ports: [" + strings.Repeat("80,", MaxPortRanges+1) + "]"), []string{`FILE: services[0].ports: 257 entries are too many: at most 256; join neighbours to ranges such as 8000-8100`}},

	// More than one.
	{"unknown keys hide nothing", "log: {colour: x}\nservices: [{name: web, prefixes: [192.0.2.0/24], ports: [80, 99443], mode: allways}, {name: web, prefixes: [192.0.2.0/24], portz: [80]}, " +
		"{nam: x, prefixes: [192.0.2.0/33]}, 7, {name: y, prefixes: {a: 1}, unknown: no}]", []string{
		`FILE: log.colour: unknown key: use one of level, format`,
		`FILE: services[1].portz: unknown key: did you mean ports?`,
		`FILE: services[2].nam: unknown key: did you mean name?`,
		`FILE: services[3]: the value "7" where a section is due: use one or more of name, prefixes, ports, mode, engage, options, bypass_rate, early_data, server_ack, closed_ports, unknown, allow, deny, verified, per_source`,
		`FILE: services[4].prefixes[0]: a section where one value is due`,
		`FILE: services[0].ports[1]: "99443" is not a port: use 1 to 65535, or a range such as 8000-8100`,
		`FILE: services[0].mode: "allways" is not a mode: use auto, always, monitor or off`,
		`FILE: services[2].prefixes[0]: "192.0.2.0/33" is not a prefix: write an address and a length, such as 192.0.2.0/24 or 2001:db8:1::/64`,
		`FILE: services[4].unknown: "no" is not known: use drop, pass or reset`,
		`FILE: services[1].name: "web" is also the name of services[0]: rename one`,
	}},
	{"no port is not every port", "services: [{name: a, prefixes: [192.0.2.0/24], ports: [http]}, {name: b, prefixes: [192.0.2.0/24], ports: [443]}]", []string{
		`FILE: services[0].ports[0]: "http" is not a port: use 1 to 65535, or a range such as 8000-8100`,
	}},
	{"everything is found at once", "tun: {mtu: 1}\nlog: {level: loud}\nservices: [{name: WEB, prefixes: [192.0.2.1/24], ports: [0]}]", []string{
		`FILE: tun.mtu: "1" is neither auto nor a whole number from 1280 to 65535`,
		`FILE: log.level: "loud" is unknown: use debug, info, warn or error`,
		`FILE: services[0].prefixes[0]: "192.0.2.1/24" has bits set behind its length: 192.0.2.0/24 is meant, or 192.0.2.1/32 for this one address`,
		`FILE: services[0].ports[0]: "0" is not a port: use 1 to 65535, or a range such as 8000-8100`,
		`FILE: services[0].name: "WEB" can't be a label: use 1 to 63 of a-z, 0-9, _ and -`,
	}},
}

func TestBroken(t *testing.T) {
	for _, tt := range broken {
		t.Run(tt.name, func(t *testing.T) {
			path := write(t, tt.text)
			_, err := Load(path)
			var problems Problems
			if !errors.As(err, &problems) {
				t.Fatalf("Load returned %v, want Problems", err)
			}
			var got []string
			for _, p := range problems {
				got = append(got, strings.ReplaceAll(p.Error(), path, "FILE"))
			}
			if fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
		})
	}
}

func TestFileProblems(t *testing.T) {
	dir := t.TempDir()
	gone := filepath.Join(dir, "gone.yaml")
	_, err := Load(gone)
	if want := gone + ": no such file: write one (levee.example.yaml has every key) or name another with --config"; err == nil || err.Error() != want {
		t.Errorf("missing file: got %v, want %s", err, want)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file must be told from a broken one: %v", err)
	}
	_, err = Load(dir)
	if want := dir + ": is a directory: give levee a file that it can read with --config"; err == nil || err.Error() != want {
		t.Errorf("directory: got %v, want %s", err, want)
	}
	if errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder is not a missing file: %v", err)
	}
	_, err = Load(write(t, "log: {level: x, format: y}\n"+minimal))
	if err == nil || !strings.HasSuffix(err.Error(), " (and 1 more: see levee check)") {
		t.Errorf("two problems in one line: got %v", err)
	}
}

// What a broken file leaves of the configuration is good enough to clean up with.
func TestBrokenIsUsable(t *testing.T) {
	want := standard()
	for _, tt := range broken {
		cfg, err := Load(write(t, tt.text))
		if err == nil {
			t.Errorf("%s: no error", tt.name)
		}
		if cfg.TUN.Name != want.TUN.Name || cfg.Routing.Table != want.Routing.Table || cfg.StateDir != want.StateDir || cfg.Routing.Priority != want.Routing.Priority {
			t.Errorf("%s: left %+v", tt.name, cfg)
		}
	}
	cfg, err := Load(write(t, "tun: {name: levee7, mut: 1500}\nstate_dir: /tmp/x\nrouting: {table: 77, priority: [1]}\nservice: []\nservices: [{name: x}]"))
	if err == nil || cfg.TUN.Name != "levee7" || cfg.Routing.Table != 77 || cfg.StateDir != "/tmp/x" {
		t.Errorf("good keys beside bad ones are lost: %+v, %v", cfg, err)
	}
}

func TestLostStateDir(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       bool
	}{
		{"another key", "tun: {name: 'a b'}\n" + minimal, false},
		{"a key of a similar name", "state_dirs: /tmp\n" + minimal, false},
		{"the key", "state_dir: tmp\n" + minimal, true},
		{"its shape", "state_dir: [/tmp]\n" + minimal, true},
		{"the file", "state_dir: /tmp\nx", false},
		{"the file, which doesn't name it", minimal + "\ngarbage: [", false},
		{"the file, which has it in a comment", "# state_dir: /tmp\n" + minimal + "\ngarbage: [", false},
		{"the file, with the key twice", "state_dir: /tmp\nstate_dir: /var\n" + minimal, true},
		{"the file, with the key in braces", "{state_dir: /tmp, services: [}", true},
		{"the file, with the key broken", "state_dir: [\n" + minimal, true},
	} {
		var problems Problems
		if _, err := Load(write(t, tt.text)); !errors.As(err, &problems) || problems.LostStateDir() != tt.want {
			t.Errorf("%s: %v, want %v of %v", tt.name, !tt.want, tt.want, err)
		}
	}
}

// A slip in the YAML doesn't hide where the daemon is.
func TestStateDirOfNoYAML(t *testing.T) {
	file := write(t, "# state_dir: no\nstate_dir: /tmp/x # here\nsecret_file: '/tmp/key'\n"+minimal+"\ngarbage: [")
	if cfg, err := Load(file); err == nil || cfg.StateDir != "/tmp/x" || cfg.SecretFile != "/tmp/key" {
		t.Errorf("%s, %s, %v", cfg.StateDir, cfg.SecretFile, err)
	}
	t.Setenv("LEVEE_STATE_DIR", "/tmp/y")
	if cfg, err := Load(file); err == nil || cfg.StateDir != "/tmp/y" {
		t.Errorf("%s, %v", cfg.StateDir, err)
	}
}

// No input makes Load panic or talk over more than one line.
func FuzzLoad(f *testing.F) {
	for _, tt := range broken {
		if len(tt.text) < 1000 {
			f.Add(tt.text)
		}
	}
	f.Add(minimal)
	path := filepath.Join(f.TempDir(), "levee.yaml")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err != nil && strings.ContainsAny(err.Error(), "\n\r") {
			t.Errorf("more than one line: %q", err)
		}
	})
}
