//go:build measure

package integration

// What is here compares levee with others and fills tables of docs/tcp.md. It takes minutes and a quiet machine, and is not part of the tests: make measure.

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

// TestConnectionPerRequestRate compares the rate of short connections through levee with those of plain forwarding and the kernel's SYNPROXY, in
// turn, and logs them; levee must fail no request. It needs a machine that does nothing else.
func TestConnectionPerRequestRate(t *testing.T) {
	const (
		turns = 3
		each  = 10 * time.Second
	)
	families(t, func(t *testing.T, v6 bool) {
		for _, generator := range perRequest {
			t.Run(generator.name, func(t *testing.T) {
				names := []string{"plain forwarding", "SYNPROXY", "levee"}
				labs := []*lab.Lab{labtest.New(t, lab.Config{}), labtest.New(t, lab.Config{}), protect(t, options{"timestamps": "true"}).Lab}
				if _, err := labs[1].StartSYNPROXY(lab.SYNPROXYConfig{MSS: 1460, WScale: 7, SACK: true, Timestamps: true}); err != nil {
					t.Fatal(err)
				}
				for _, l := range labs {
					nginx(t, l.Servers[0])
					reusePorts(t, l.Clients[0])
				}
				rates, longest, errors := make([][]float64, len(labs)), make([]time.Duration, len(labs)), make([]float64, len(labs))
				for range turns {
					for i, l := range labs {
						r := generator.run(t, l.Clients[0].Namespace, "http://"+l.Servers[0].AddrPort(v6, 80).String()+"/close", each)
						if names[i] == "levee" {
							r.check(t)
						}
						rates[i] = append(rates[i], r.requests/each.Seconds())
						longest[i] = max(longest[i], r.longest)
						errors[i] += r.errors
					}
				}
				for i, name := range names {
					slices.Sort(rates[i])
					ratio := rates[i][turns/2] / rates[0][turns/2]
					t.Logf("%s: %.0f requests a second, %.2f of plain forwarding, the longest %s, %.0f errors", name, rates[i], ratio, longest[i], errors[i])
				}
			})
		}
	})
}

// TestPathMTUSideBySide runs the transfers of TestPathMTU, each in a lab of its own, so that no host knows of the hop before, over plain forwarding, the kernel's SYNPROXY and levee, and
// logs the table in docs/tcp.md. levee must carry all of them. A black hole costs 30 s, so it takes a minute and a half.
func TestPathMTUSideBySide(t *testing.T) {
	contenders := []struct {
		name  string
		start func(t *testing.T, cfg lab.Config) *lab.Lab
	}{
		{"plain forwarding", func(t *testing.T, cfg lab.Config) *lab.Lab { return labtest.New(t, cfg) }},
		{"SYNPROXY", func(t *testing.T, cfg lab.Config) *lab.Lab {
			l := labtest.New(t, cfg)
			// All that the hosts can do. The servers' window scale is Linux's with default buffers.
			if _, err := l.StartSYNPROXY(lab.SYNPROXYConfig{MSS: 1460, WScale: 7, SACK: true, Timestamps: true}); err != nil {
				t.Fatal(err)
			}
			return l
		}},
		{"levee", func(t *testing.T, cfg lab.Config) *lab.Lab {
			return protectLab(t, cfg, options{"timestamps": "true"}).Lab
		}},
	}
	table := "| narrow hop | family | direction |"
	for _, c := range contenders {
		table += " " + c.name + " |"
	}
	table += "\n|---|---|---|---|---|---|"
	for _, hop := range hops {
		families(t, func(t *testing.T, v6 bool) {
			family := map[bool]string{false: "IPv4", true: "IPv6"}[v6]
			rows := [2]string{}
			for i, way := range ways(nil, nil) {
				rows[i] = fmt.Sprintf("\n| %s | %s | %s |", hop.name, family, way.name)
			}
			for _, c := range contenders {
				for i := range rows {
					l := c.start(t, hop.lab)
					client, server := connect(t, l.Clients[0], l.Servers[0], v6, 7777)
					way := ways(client, server)[i]
					took, err := transfer(way.from, way.to, pmtuSize, 30*time.Second)
					if err != nil && c.name == "levee" {
						t.Errorf("%s, %s: %v", hop.name, way.name, err)
					}
					if err != nil {
						rows[i] += fmt.Sprintf(" **%v** |", err)
					} else {
						rows[i] += fmt.Sprintf(" %.2f s |", took.Seconds())
					}
					if err := l.Close(); err != nil {
						t.Fatal(err)
					}
				}
			}
			table += rows[0] + rows[1]
		})
	}
	t.Logf("10 MiB each:\n\n%s\n", table)
}
