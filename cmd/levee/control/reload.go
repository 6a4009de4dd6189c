package control

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"time"
)

// Reloaded is what a reload has changed.
type Reloaded struct {
	// Changes are in words, one line each.
	Changes []string `json:"changes"`
}

// Configuration is when the daemon last took one, and what became of the latest reload.
type Configuration struct {
	// LoadedAt is when the one in force was loaded.
	LoadedAt time.Time `json:"loaded_at"`
	// LastReloadSuccessful is true as well if there has been none.
	LastReloadSuccessful bool `json:"last_reload_successful"`
	// LastError is why the latest reload failed, if it did.
	LastError string `json:"last_error,omitempty"`
}

// reloadTimeout is how long a reload may take.
const reloadTimeout = time.Minute

func serveReload(w http.ResponseWriter, source Source) {
	changes, err := source.Reload()
	// It may have taken longer than other answers do. An error means that nobody waits for this one.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(chunkTimeout))
	if err != nil {
		refuse(w, http.StatusConflict, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(Reloaded{Changes: append([]string{}, changes...)})
}

// Reload makes the daemon read its configuration, waits, and returns what has changed. If there is an error nothing has.
func (c *Client) Reload(ctx context.Context) (Reloaded, error) {
	var r Reloaded
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	body, err := c.ask(ctx, http.MethodPost, "/v1/reload")
	if err != nil {
		return r, err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, maxStatus)).Decode(&r); err != nil {
		return r, c.explain(err)
	}
	return r, nil
}
