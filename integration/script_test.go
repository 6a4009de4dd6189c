package integration

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"sync"
	"testing"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
	"levee/integration/script"
)

// scriptFolder holds the packet scripts; the package comment of integration/script says how they are written.
const scriptFolder = "testdata/scripts"

// scriptsAtOnce bounds how many scripts share the machine's cores: they mostly wait.
const scriptsAtOnce = 48

func loadScripts(t *testing.T) []*script.Script {
	t.Helper()
	list, err := script.Load(os.DirFS(scriptFolder))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// scriptRun is a script over one family, and how it ended.
type scriptRun struct {
	*script.Script
	family script.Family
	err    error
}

// runScripts runs scripts over their families, side by side, each group of one configuration on a lab of its own that start makes
// ready. vouched is for NewGround.
func runScripts(t *testing.T, list []*script.Script, vouched bool, start func(*testing.T, *lab.Lab, options)) []*scriptRun {
	t.Helper()
	grounds := map[string]*script.Ground{}
	var runs []*scriptRun
	var wg sync.WaitGroup
	limit := make(chan struct{}, scriptsAtOnce)
	for _, s := range list {
		o := options{}
		for _, setting := range s.Config {
			o[setting.Key] = setting.Value
		}
		key := fmt.Sprint(o, s.MTU) // options in the order of their keys
		g := grounds[key]
		if g == nil {
			l := labtest.New(t, lab.Config{})
			for _, h := range []*lab.Host{l.Clients[0], l.Servers[0]} {
				if err := h.Link.SetMTU(s.MTU); err != nil {
					t.Fatal(err)
				}
			}
			start(t, l, o)
			var err error
			if g, err = script.NewGround(l, vouched); err != nil {
				t.Fatal(err)
			}
			grounds[key] = g
		}
		for _, f := range s.Families {
			r := &scriptRun{Script: s, family: f}
			runs = append(runs, r)
			wg.Go(func() {
				limit <- struct{}{}
				r.err = g.Run(s, f)
				<-limit
			})
		}
	}
	wg.Wait()
	return runs
}

func startLeveeForScripts(t *testing.T, l *lab.Lab, o options) {
	t.Helper()
	path, err := labtest.Binary()
	if err != nil {
		t.Fatal(err)
	}
	// A script may say how the server is acknowledged; the others see each SYN once, and no
	// probe, which would be a packet that no step asks for.
	o = maps.Clone(o)
	serverAck := cmp.Or(o["server_ack"], "immediate")
	delete(o, "server_ack")
	labtest.StartLevee(t, l, path, config(o)+"    server_ack: "+serverAck+"\nlearn: {probe: false, closed_for: 2s}\n")
}

// scriptTable, if set, is the file that TestScripts writes a table to: what every script shows, and how levee and kernel SYNPROXY
// answer it. From this folder: go test -run TestScripts -scripttable ../docs/scripts.md
var scriptTable = flag.String("scripttable", "", "`file` to write the table of packet scripts to")

// TestScripts runs every script against levee. One that is known to fail must fail, at the step that says so: once it passes, its "known"
// line goes.
func TestScripts(t *testing.T) {
	labtest.RequireRoot(t)
	list := loadScripts(t)
	runs := runScripts(t, list, false, startLeveeForScripts)
	for _, r := range runs {
		t.Run(r.Name+" "+r.family.String(), func(t *testing.T) {
			var failed *script.Failure
			fault, known := r.Known[r.family]
			switch {
			case r.err != nil && !errors.As(r.err, &failed):
				t.Error(r.err)
			case known && r.err == nil:
				t.Errorf("it passes: %s is no longer known to fail (%s)", fault.Where, fault.Reason)
			case known && failed.Where == fault.Where:
				t.Logf("known: %s\n%v", fault.Reason, r.err)
			case r.err != nil:
				t.Errorf("%s\n%v", r.Summary, r.err)
			}
		})
	}
	if *scriptTable != "" && !t.Failed() {
		writeScriptTable(t, *scriptTable, list, runScripts(t, list, true, startSYNPROXYForScripts))
	}
}
