package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync"
	"time"
)

// secret is a TLS 1.3 server that answers requests of requestSize bytes with a page, once on each connection.
type secret struct {
	listener net.Listener
	serving  sync.WaitGroup
}

// startTLS starts a server whose certificate nobody checks.
func (b *bench) startTLS() (s *secret, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	plain, err := b.server.Listen(b.nextPort(), 0)
	if err != nil {
		return nil, err
	}
	s = &secret{listener: tls.NewListener(plain, &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		MinVersion:   tls.VersionTLS13,
		// A ticket would be one more segment, before the page.
		SessionTicketsDisabled: true,
	})}
	s.serving.Go(func() {
		for {
			c, err := s.listener.Accept()
			if err != nil {
				return
			}
			s.serving.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(peerTimeout))
				var buf [pageSize]byte
				if _, err := io.ReadFull(c, buf[:requestSize]); err == nil {
					_, _ = c.Write(buf[:])
				}
				_, _ = io.Copy(io.Discard, c)
			})
		}
	})
	return s, nil
}

func (s *secret) close() error {
	err := s.listener.Close()
	s.serving.Wait()
	return err
}

// tlsTrips measures connections of the far client with TLS 1.3, until the first byte of the page.
func (b *bench) tlsTrips(ctx context.Context) (t *tally, err error) {
	server, err := b.startTLS()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.close()) }()
	t = &tally{}
	for range b.length.trips {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		t.add(b.tlsExchange(ctx, server.listener.Addr().String()))
	}
	return t, t.errBelow(tripsShare)
}

func (b *bench) tlsExchange(ctx context.Context, to string) (t times, err error) {
	begin := time.Now()
	plain, err := b.far.DialContext(ctx, "tcp", to)
	if err != nil {
		return t, err
	}
	t.connected = time.Since(begin)
	_ = plain.SetDeadline(begin.Add(peerTimeout))
	// Nobody is to be deceived here.
	c := tls.Client(plain, &tls.Config{InsecureSkipVerify: true})
	defer func() { err = errors.Join(err, c.Close()) }()
	var buf [pageSize]byte
	if _, err := c.Write(buf[:requestSize]); err != nil {
		return t, fmt.Errorf("ask %s: %w", to, err)
	}
	if _, err := c.Read(buf[:1]); err != nil {
		return t, fmt.Errorf("wait for %s: %w", to, err)
	}
	t.first, t.last = time.Since(begin), time.Since(begin)
	return t, nil
}
