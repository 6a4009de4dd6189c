package daemon

import (
	"errors"
	"fmt"
	"os"

	"levee/cmd/levee/control"
	"levee/cmd/levee/flowfile"
	"levee/proxy"
)

// openFlows maps the file in which the flows outlive this process. Without one, because state_dir is on a disk, levee works all the
// same.
func (d *daemon) openFlows() error {
	state, note, err := flowfile.Open(d.cfg.StateDir, d.cfg.Flows.Capacity)
	if errors.Is(err, flowfile.ErrNotVolatile) {
		d.notKept = err.Error()
		return nil
	}
	if note.Aside != "" {
		d.log.Warn("flow file set aside", "why", note.Aside)
	}
	if d.converted = note.Conversion; note.Converted != "" {
		d.log.Info("flow file converted", "why", note.Converted, "flows", d.converted.Flows, "rewritten", d.converted.Rewritten)
	}
	if d.converted.NoRoom > 0 {
		d.log.Warn("flows.capacity has no room for these flows", "flows", d.converted.NoRoom)
	}
	if err != nil {
		return err
	}
	d.flowState = state
	if d.flowFile, err = os.Lstat(flowfile.Path(d.cfg.StateDir)); err != nil {
		return err
	}
	d.undo.addLasting("flow file", func() error {
		_, err := flowfile.Remove(d.cfg.StateDir)
		return err
	}, nil)
	return nil
}

// checkFlowFile says why the next program would not find this one's flows: their file goes by its name.
func (d *daemon) checkFlowFile() error {
	if d.flowState == nil {
		return nil
	}
	path := flowfile.Path(d.cfg.StateDir)
	if now, err := os.Lstat(path); err != nil || !os.SameFile(now, d.flowFile) {
		return fmt.Errorf("connections would be lost: somebody has removed or replaced flow file %s: levee drain, then start it anew", path)
	}
	return nil
}

// reportRestored says what became of the flows of the process before.
func (d *daemon) reportRestored() {
	r := d.proxy.Restored()
	if r == (proxy.Restored{}) {
		return
	}
	d.log.Info("going on with the connections of an earlier process", "flows", r.Flows, "rewritten", r.Rewritten, "unserved", r.Unserved)
	if r.Senseless > 0 {
		d.log.Warn("the flow file was damaged: these connections are lost, others may be", "flows", r.Senseless)
	}
}

// kept is what status says about it.
func (d *daemon) kept() control.Kept {
	if d.flowState == nil {
		return control.Kept{Why: d.notKept}
	}
	r := d.proxy.Restored()
	return control.Kept{
		File: flowfile.Path(d.cfg.StateDir), Restored: r.Flows, Lost: r.Rewritten + r.Senseless + d.converted.Rewritten + d.converted.NoRoom,
	}
}
