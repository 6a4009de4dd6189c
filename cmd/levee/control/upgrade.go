package control

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Upgrade is what the next program says of itself before it takes over.
type Upgrade struct {
	// Program is its file; Version the one that it says it is.
	Program string `json:"program"`
	Version string `json:"version"`
	// Converts says that it has to convert the flow file before it goes on with it.
	Converts bool `json:"converts"`
}

func serveUpgrade(w http.ResponseWriter, r *http.Request, source Source) {
	upgrade, begin, err := source.Upgrade(r.URL.Query().Get("program"))
	control := http.NewResponseController(w)
	// It may have taken longer than other answers do. An error means that nobody waits for this one.
	_ = control.SetWriteDeadline(time.Now().Add(chunkTimeout))
	if err != nil {
		refuse(w, http.StatusConflict, err)
		return
	}
	body, err := json.Marshal(upgrade)
	if err != nil {
		panic(err) // strings and a truth value
	}
	// The whole answer has to be out before this server ends.
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body)
	_ = control.Flush()
	begin()
}

// Upgrade has the daemon replace its program by that in a file, or by what is now in its own file if the path is empty. It returns when
// that one has agreed and is about to begin: Status.Started then changes. If there is an error the daemon runs on as it was.
func (c *Client) Upgrade(ctx context.Context, program string) (Upgrade, error) {
	return decoded[Upgrade](ctx, c, http.MethodPost, "/v1/upgrade?"+url.Values{"program": {program}}.Encode())
}
