package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"
)

// server is a Redis server of this program's own, which keeps nothing when it ends.
type server struct {
	path, dir, addr string
	cmd             *exec.Cmd
}

func newServer() (*server, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, errors.New("there is no redis-server in PATH: install one, as by apt-get install redis-server")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // which finds a free port
	if err != nil {
		return nil, err
	}
	defer l.Close()
	dir, err := os.MkdirTemp("", "fleet")
	if err != nil {
		return nil, err
	}
	return &server{path: path, dir: dir, addr: l.Addr().String()}, nil
}

// start returns when the server answers.
func (s *server) start(ctx context.Context) error {
	_, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		return err
	}
	s.cmd = exec.Command(s.path, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", s.dir)
	if err := s.cmd.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", s.addr)
		if err == nil {
			return c.Close()
		}
		if ctx.Err() != nil {
			return fmt.Errorf("redis-server does not answer on %s: %w", s.addr, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// kill ends the server, which has no time to say goodbye.
func (s *server) kill() {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

func (s *server) remove() {
	s.kill()
	_ = os.RemoveAll(s.dir)
}
