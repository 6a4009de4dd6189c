package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Bounds of a bundle.
const (
	// maxPart is the most of one file, in bytes.
	maxPart = 1 << 20
	// maxSecret is more than the longest way to write a secret, in bytes.
	maxSecret = 256
	// partTimeout is how long one of them may take.
	partTimeout = 15 * time.Second
	// daemonTimeout is how long what the daemon is asked for may take, all at once: one that hangs answers none of it.
	daemonTimeout = 7 * time.Second
)

// part is one file of a bundle.
type part struct {
	name string
	// what says where it comes from.
	what    string
	content []byte
	// missing is why there is nothing, cut that there was more, and note what else there is to say.
	missing string
	cut     bool
	note    string
}

// source is how a part comes about.
type source struct {
	name, what string
	// asks says that there is nothing in it but the daemon's answer.
	asks bool
	// collect writes it. With an error what was written counts all the same, if that is anything.
	collect func(ctx context.Context, w io.Writer) error
}

// collectParts collects all and takes secrets out: what the daemon is asked for at once, since it may hang or answer only some of it, and the rest
// meanwhile, one after the other.
func collectParts(ctx context.Context, sources []source, secrets [][]byte) []part {
	parts := make([]part, len(sources))
	var answers sync.WaitGroup
	for i, s := range sources {
		if s.asks {
			answers.Go(func() { parts[i] = collectPart(ctx, s, daemonTimeout, secrets) })
		}
	}
	for i, s := range sources {
		if !s.asks && ctx.Err() == nil {
			parts[i] = collectPart(ctx, s, partTimeout, secrets)
		}
	}
	answers.Wait()
	return slices.DeleteFunc(parts, func(p part) bool { return p.name == "" }) // interrupted
}

func collectPart(ctx context.Context, s source, timeout time.Duration, secrets [][]byte) part {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	// What is cut off must not be half a secret.
	w := &bounded{left: maxPart + maxSecret}
	err := s.collect(ctx, w)
	p := part{name: s.name, what: s.what, content: redact(w.kept.Bytes(), secrets), cut: w.cut}
	if len(p.content) > maxPart {
		p.content, p.cut = p.content[:maxPart], true
	}
	switch {
	case err != nil && len(p.content) == 0:
		p.missing = oneLine(redact([]byte(err.Error()), secrets))
	case err != nil:
		p.note = oneLine(redact([]byte(err.Error()), secrets))
	}
	return p
}

func oneLine(text []byte) string { return strings.Join(strings.Fields(string(text)), " ") }

// bounded keeps what comes first and takes the rest without keeping it, so that whoever writes goes on to its end.
type bounded struct {
	kept bytes.Buffer
	left int
	cut  bool
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	n := min(len(p), b.left)
	b.kept.Write(p[:n])
	b.left -= n
	b.cut = b.cut || n < len(p)
	return len(p), nil
}

// secretsIn returns every way to write the secret that is in a file; none if there is no such file. It is not for a daemon: nothing is made.
func secretsIn(path string) ([][]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSecret))
	if err != nil {
		return nil, err
	}
	raw, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(raw) < 16 {
		return nil, nil // no secret: levee refuses it, and check says so
	}
	lower := hex.EncodeToString(raw)
	out := [][]byte{raw, []byte(lower), []byte(strings.ToUpper(lower))}
	for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		out = append(out, []byte(e.EncodeToString(raw)))
	}
	return out, nil
}

// redact takes secrets out of a text.
func redact(text []byte, secrets [][]byte) []byte {
	for _, s := range secrets {
		text = bytes.ReplaceAll(text, s, []byte("[redacted]"))
	}
	return text
}

// writeBundle writes parts as a tar.gz, all in one folder.
func writeBundle(w io.Writer, folder string, now time.Time, parts []part) error {
	zip := gzip.NewWriter(w)
	archive := tar.NewWriter(zip)
	for _, p := range parts {
		if p.missing != "" {
			continue
		}
		header := &tar.Header{Name: folder + "/" + p.name, Mode: 0o600, Size: int64(len(p.content)), ModTime: now, Format: tar.FormatPAX}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if _, err := archive.Write(p.content); err != nil {
			return err
		}
	}
	return errors.Join(archive.Close(), zip.Close())
}
