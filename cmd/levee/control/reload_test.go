package control

import (
	"errors"
	"slices"
	"testing"
)

func TestReload(t *testing.T) {
	for _, tt := range []struct {
		changes []string
		refusal error
	}{
		{nil, nil},
		{[]string{"service web has changed", "log.level is DEBUG, was INFO"}, nil},
		{nil, errors.New("/etc/levee/levee.yaml: flows.capacity: it can't change")},
	} {
		client, _ := serve(t, &fake{changes: tt.changes, refusal: tt.refusal})
		got, err := client.Reload(t.Context())
		if tt.refusal != nil {
			if err == nil || err.Error() != tt.refusal.Error() {
				t.Errorf("got %v, want %v", err, tt.refusal)
			}
			continue
		}
		if err != nil || !slices.Equal(got.Changes, tt.changes) || got.Changes == nil {
			t.Errorf("got %#v, %v; want %q", got, err, tt.changes)
		}
	}
}
