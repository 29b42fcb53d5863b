package sluiceredis_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	sluiceredis "github.com/sluice-go/sluice/contrib/redis"
	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPromise22_Config(t *testing.T) {
	_, c := mini(t)
	for _, one := range []struct {
		conf sluiceredis.Config
		want string
	}{
		{sluiceredis.Config{}, "sluiceredis: Config.Client is nil: must be a client"},
		{sluiceredis.Config{Client: c, Prefix: "a{b}"}, `sluiceredis: Config.Prefix is "a{b}": must be empty (sluice) or at most 128 bytes of UTF-8 without braces`},
		{sluiceredis.Config{Client: c, OpMemory: time.Millisecond}, "sluiceredis: Config.OpMemory is 1ms: must be zero (2 minutes) or from 1s to a year"},
		{sluiceredis.Config{Client: c, MaxValue: -1}, "sluiceredis: Config.MaxValue is -1: must be zero (1 MiB) or from 1 to 64 MiB"},
		{sluiceredis.Config{Client: c, MaxEvents: -1}, "sluiceredis: Config.MaxEvents is -1: must be zero (100,000) or positive"},
		{sluiceredis.Config{Client: c}, "does not say whether it evicts keys"}, // as this one does not
	} {
		_, err := sluiceredis.New(t.Context(), one.conf)
		assert.ErrorContains(t, err, one.want)
	}
}

// TestEviction: a server that evicts keys is refused, whatever it evicts.
func TestEviction(t *testing.T) {
	s := start(t)
	c := client(t, s.addr)
	policy := func(p string) error {
		require.NoError(t, c.Do(t.Context(), c.B().ConfigSet().ParameterValue().ParameterValue("maxmemory-policy", p).Build()).Error())
		e, err := sluiceredis.New(t.Context(), sluiceredis.Config{Client: c})
		if err == nil {
			require.NoError(t, e.Close())
		}
		return err
	}
	for _, p := range []string{"allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"} {
		assert.ErrorContains(t, policy(p), fmt.Sprintf("maxmemory-policy of the server %s is %q: must be", s.addr, p))
	}
	require.NoError(t, policy("noeviction"))

	// One that is full refuses, and takes nothing.
	e := open(t, sluiceredis.Config{Client: c})
	_, err := e.Store().Write(t.Context(), "before", 0, []byte("x"), 0)
	require.NoError(t, err)
	require.NoError(t, c.Do(t.Context(), c.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", "1").Build()).Error())
	_, err = e.Store().Write(t.Context(), "full", 0, []byte("x"), 0)
	assert.ErrorIs(t, err, engine.ErrRefused)
	_, err = e.Quota().Take(t.Context(), engine.Draw{Meters: []engine.Meter{{Key: "m", N: 1, Per: time.Hour}}})
	assert.ErrorIs(t, err, engine.ErrRefused)
	require.NoError(t, c.Do(t.Context(), c.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", "0").Build()).Error())
	_, err = e.Store().Read(t.Context(), "full")
	assert.ErrorIs(t, err, engine.ErrAbsent)
	g, err := e.Quota().Take(t.Context(), engine.Draw{Meters: []engine.Meter{{Key: "m", N: 1, Per: time.Hour}}})
	require.NoError(t, err)
	assert.Equal(t, int64(1), g.Units)
}

// rules are what a user of the server needs, as doc.go has it; of "{PREFIX}:*" alone.
const rules = "+hello +auth +ping +eval +evalsha +subscribe +unsubscribe" +
	" +time +get +mget +set +del +exists +pttl +pexpire +persist +incrby" +
	" +hget +hmget +hset +zadd +zrem +zrangebylex +zrangebyscore +xadd +publish"

// TestUser: a user that may do no more than doc.go says can do all that an engine does.
func TestUser(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	for _, rule := range strings.Fields(rules) {
		require.Contains(t, string(doc), rule, "doc.go tells what a user needs")
	}
	s := start(t)
	root := client(t, s.addr)
	set := func(more ...string) {
		args := append([]string{"agents", "reset", "on", ">secret", "~{fleet}:*", "&{fleet}:*", "-@all"}, append(strings.Fields(rules), more...)...)
		require.NoError(t, root.Do(t.Context(), root.B().Arbitrary("ACL", "SETUSER").Args(args...).Build()).Error())
	}
	set()
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.addr}, Username: "agents", Password: "secret", DisableCache: true, ForceSingleClient: true})
	require.NoError(t, err)
	defer c.Close()
	_, err = sluiceredis.New(t.Context(), sluiceredis.Config{Client: c, Prefix: "fleet"})
	assert.ErrorContains(t, err, "say so by Config.NoEviction", "it may not ask")
	set("+info")
	e := open(t, sluiceredis.Config{Client: c, Prefix: "fleet"})
	quick := sluicetest.Options{Tick: 50 * time.Millisecond, Slack: 45 * time.Millisecond, Rounds: 1}
	var lost complaints
	sluicetest.Quota(&lost, e.Quota, quick)
	sluicetest.Store(&lost, e.Store, quick)
	sluicetest.Slots(&lost, e.Slots, quick)
	sluicetest.Publisher(&lost, func() (engine.Publisher, func() []engine.Event) {
		return e.Events(), func() []engine.Event { return published(t, root, e.Stream()) }
	}, quick)
	for _, l := range lost.list() { // the kits may find it slow; but never without a right
		assert.NotContains(t, l, "NOPERM")
		assert.NotContains(t, l, "ermission")
	}
	_, _, err = e.Epoch(t.Context())
	require.NoError(t, err)
	log, err := root.Do(t.Context(), root.B().Arbitrary("ACL", "LOG", "50").Build()).ToArray()
	require.NoError(t, err)
	for _, entry := range log {
		m, err := entry.AsMap()
		require.NoError(t, err)
		object, context := m["object"], m["context"]
		what, _ := object.ToString()
		where, _ := context.ToString()
		assert.Contains(t, []string{"info", "config|get", "client|setinfo"}, what, "denied (%s)", where)
	}

	other := open(t, sluiceredis.Config{Client: c, Prefix: "others", NoEviction: true})
	_, err = other.Store().Write(t.Context(), "k", 0, nil, 0)
	assert.ErrorContains(t, err, "NOPERM")
}

// TestTLS: with TLS, as the client says.
func TestTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	certFile, keyFile := write("cert.pem", "CERTIFICATE", cert), write("key.pem", "PRIVATE KEY", private)
	secure := fmt.Sprint(port(t))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, _ := exec.CommandContext(ctx, program(t), "--port", "0", "--tls-port", secure, "--dir", dir).CombinedOutput() // fails, for want of a certificate
	if strings.Contains(string(out), "Failed finding TLS support") {
		t.Skip("this server was built without TLS")
	}
	start(t, "--tls-port", secure, "--tls-cert-file", certFile, "--tls-key-file", keyFile, "--tls-ca-cert-file", certFile, "--tls-auth-clients", "no")
	pool := x509.NewCertPool()
	parsed, err := x509.ParseCertificate(cert)
	require.NoError(t, err)
	pool.AddCert(parsed)
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{"127.0.0.1:" + secure}, TLSConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, DisableCache: true})
	require.NoError(t, err)
	defer c.Close()
	e := open(t, sluiceredis.Config{Client: c})
	_, err = e.Store().Write(ctx, "k", 0, []byte("x"), 0)
	require.NoError(t, err)
	for rec, err := range e.Store().Follow(ctx, "") {
		require.NoError(t, err)
		require.Equal(t, "x", string(rec.Value))
		break
	}
}

// complaints is a T that keeps them.
type complaints struct{ record }

// TestRESP2: a server, or a proxy before it, that speaks the old protocol alone.
func TestRESP2(t *testing.T) {
	addr := server(t)
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, AlwaysRESP2: true, DisableCache: true, ForceSingleClient: true})
	require.NoError(t, err)
	defer c.Close()
	e := open(t, sluiceredis.Config{Client: c})
	_, err = e.Store().Write(t.Context(), "k", engine.AnyRevision, []byte("x"), 0)
	require.NoError(t, err)
	for rec, err := range e.Store().Follow(t.Context(), "k") {
		require.NoError(t, err)
		require.Equal(t, "x", string(rec.Value))
		break
	}
	g, err := e.Quota().Take(t.Context(), engine.Draw{Op: engine.NewOpID(), Meters: []engine.Meter{{Key: "m", N: 5, Per: time.Hour}}, Max: 9})
	require.NoError(t, err)
	require.Equal(t, int64(5), g.Units)
	l, err := e.Slots().Acquire(t.Context(), engine.Claim{Key: "s", Holder: "h", Limit: 1, TTL: time.Minute, MaxWait: time.Second})
	require.NoError(t, err)
	require.NoError(t, e.Slots().Release(t.Context(), l))
}
