package daemon

import (
	"levee/routes"
	"levee/tunnel"
)

// reportLeft says what earlier processes have left that this one has no use for, because the configuration was another: nobody else would. It may be what
// another levee, which manages no routes, is about to go on with, so it stays.
func (d *daemon) reportLeft() error {
	names, err := tunnel.Abandoned(d.device.Name())
	if err != nil {
		return err
	}
	for _, name := range names {
		d.log.Warn("an earlier levee has left an interface that nobody uses", "interface", name, "remedy", "ip link del "+name)
	}
	if d.layout.Routes != nil {
		return nil // which takes the place of what there is
	}
	live, err := routes.Read(routesConfig(d.cfg))
	if err != nil {
		return err
	}
	for _, r := range live.Rules {
		if r.Own() {
			d.log.Warn("an earlier levee has left rules, which this one doesn't manage and won't take back", "remedy", "stop levee, and run levee cleanup")
			break
		}
	}
	return nil
}
