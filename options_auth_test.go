package bus_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/switchover"
)

func TestAccess(t *testing.T) {
	t.Parallel()
	seedFile, public := newNKey(t)
	serverTLS, clientTLS := newTLS(t)
	tests := map[string]struct {
		adjust func(*server.Options)
		good   []bus.ConnectOption
		bad    []bus.ConnectOption
	}{
		"token": {
			func(o *server.Options) { o.Authorization = "s3cret" },
			[]bus.ConnectOption{bus.WithToken("s3cret")},
			[]bus.ConnectOption{bus.WithToken("wrong")},
		},
		"user": {
			func(o *server.Options) { o.Username, o.Password = "ann", "s3cret" },
			[]bus.ConnectOption{bus.WithUser("ann", "s3cret")},
			[]bus.ConnectOption{bus.WithUser("ann", "wrong")},
		},
		"nkey": {
			func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} },
			[]bus.ConnectOption{bus.WithNKey(seedFile)},
			nil,
		},
		"tls": {
			func(o *server.Options) { o.TLSConfig, o.TLS, o.TLSTimeout = serverTLS, true, 5 },
			[]bus.ConnectOption{bus.WithTLS(clientTLS)},
			nil,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := external(t, tt.adjust).ClientURL()
			quiet := bus.WithLogger(hclog.NewNullLogger())
			b, err := bus.Connect(t.Context(), url, append(tt.good, quiet)...)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			}()
			if err := b.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, err = bus.Connect(t.Context(), url, append(tt.bad, quiet)...)
			if _, ok := errors.AsType[*bus.ConnectError](err); !ok {
				t.Fatalf("the server took a stranger: %v", err)
			}
			if strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "wrong") {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
}

// The error of a connection that is refused, or not there, says what the bus gave or where it went, and what to do.
func TestConnectErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	secured := external(t, func(o *server.Options) { o.Username, o.Password = "ann", "s3cret" })
	host := strings.TrimPrefix(secured.ClientURL(), "nats://")
	silentPort, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	must(t, err)
	t.Cleanup(func() { must(t, silentPort.Close()) })
	for name, tc := range map[string]struct {
		url   string
		opts  []bus.ConnectOption
		texts []string
	}{
		"no user":          {"nats://" + host, nil, []string{"identify the bus with WithUser"}},
		"user":             {"nats://" + host, []bus.ConnectOption{bus.WithUser("ann", "wr0ng")}, []string{`refused user "ann"`}},
		"token":            {"nats://" + host, []bus.ConnectOption{bus.WithToken("wr0ng")}, []string{"refused the token"}},
		"user of the URL":  {"nats://ann:wr0ng@" + host, nil, []string{`refused user "ann" of the URL`}},
		"token of the URL": {"nats://wr0ng@" + host, nil, []string{"refused the token of the URL"}},
		"no TLS":           {"tls://" + host, []bus.ConnectOption{bus.WithUser("ann", "s3cret")}, []string{"the server has no TLS", "nats://"}},
		"nobody":           {"nats://" + freeAddresses(t, 1)[0], nil, []string{"see that the server runs", "the port are right"}},
		"no NATS server":   {"nats://" + silentPort.Addr().String(), nil, []string{"see that a NATS server listens there"}},
		"an odd scheme":    {"http://host:4222", nil, []string{`"http://host:4222"`, `has the scheme "http"`}},
		"more than a host": {"host:4222/x", nil, []string{`"host:4222/x"`, "more than a host and a port"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := bus.Connect(t.Context(), tc.url, append(tc.opts, bus.WithLogger(silent()), bus.WithTimeout(time.Second))...)
			if hasText(t, err, tc.texts...); strings.Contains(err.Error(), "wr0ng") {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
}

func TestAccessByCredentialsFile(t *testing.T) {
	t.Parallel()
	operator := newKeyPair(t, nkeys.CreateOperator)
	account, accountJWT := newAccount(t, operator, -1)
	resolver := &server.MemAccResolver{}
	must(t, resolver.Store(publicKey(t, account), accountJWT))
	url := external(t, func(o *server.Options) {
		o.JetStream = false
		o.TrustedKeys = []string{publicKey(t, operator)}
		o.AccountResolver = resolver
	}).ClientURL()
	b, err := bus.Connect(t.Context(), url, bus.WithCredentials(newCredentials(t, account)), bus.WithLogger(hclog.NewNullLogger()))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// An embedded bus asks nobody who they are, so credentials for it are a mistake.
func TestAccessNeedsAURL(t *testing.T) {
	t.Parallel()
	for _, opts := range [][]bus.Option{nil, {bus.WithStoreDir(t.TempDir()), bus.WithLeaf(bus.Leaf{URL: "nats-leaf://127.0.0.1:1"})}} {
		_, err := bus.New(append(opts, bus.WithToken("s3cret"))...)
		if e := asError[*bus.OptionError](t, err, "add WithURL", "SwitchTo"); e.Option != "WithToken" || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("got %v", err)
		}
	}
}

// A program that identifies itself to the server that SwitchTo moves its streams to is the same
// before and after. What cannot be used any more is told.
func TestAccessForTheMove(t *testing.T) {
	t.Parallel()
	target := newTarget(t, func(o *server.Options) { o.Username, o.Password = "ann", "s3cret" })
	dir, ann := t.TempDir(), bus.WithUser("ann", "s3cret")
	log, logged := logTo(hclog.Warn)
	program := []bus.Option{bus.WithStoreDir(dir), ann, anyPort(), log}
	b := ownBus(t, program...)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	storeNumbers(t, st, 1, 10)
	switchTo(t, b, target.ClientURL(), ann)
	must(t, b.Close())
	again := ownBus(t, program...)
	if again.ClientURL() != target.ClientURL() {
		t.Errorf("the bus is at %q", again.ClientURL())
	}
	for _, start := range []string{"WithUser does not protect the port of WithListen", "WithListen has no effect: SwitchTo has moved the streams"} {
		if !slices.ContainsFunc(logged(t), func(l line) bool { return strings.HasPrefix(l.message, start) }) {
			t.Errorf("the log does not say %q: %+v", start, logged(t))
		}
	}
	asError[*switchover.MovedError](t, second(quietBus(bus.WithStoreDir(dir))), "Authorization Violation", "WithUser", "OMNIBUS_USER")
	asError[*switchover.MovedError](t, second(quietBus(bus.WithUser("ann", "wrong"), bus.WithStoreDir(dir))), "Authorization Violation", `refused user "ann"`)
	leaf := bus.WithLeaf(bus.Leaf{URL: "nats-leaf://127.0.0.1:1"})
	asError[*bus.OptionError](t, second(quietBus(bus.WithStoreDir(dir), ann, leaf)), "WithLeaf(nats-leaf://127.0.0.1:1)", "SwitchTo has moved the streams", dir, "leave the option out")
}

func TestWithURLUsesTheServer(t *testing.T) {
	t.Parallel()
	s := external(t, nil)
	b, err := bus.New(bus.WithURL(s.ClientURL()), bus.WithName("elsewhere"), bus.WithLogger(hclog.NewNullLogger()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	if got := b.Conn().ConnectedServerId(); got != s.ID() {
		t.Errorf("connected to %s, want %s", got, s.ID())
	}
	st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	_, err = bus.Consume(t.Context(), st, "c", "s.>", func(_ context.Context, m *bus.Msg[string]) error { got <- m.Data; return nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bus.PublishTo(t.Context(), st, "s.1", "hello"); err != nil {
		t.Fatal(err)
	}
	if v := <-got; v != "hello" {
		t.Errorf("got %q", v)
	}
}

func newKeyPair(t *testing.T, create func() (nkeys.KeyPair, error)) nkeys.KeyPair {
	t.Helper()
	kp, err := create()
	if err != nil {
		t.Fatal(err)
	}
	return kp
}

func publicKey(t *testing.T, kp nkeys.KeyPair) string {
	t.Helper()
	public, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return public
}

func newNKey(t *testing.T) (seedFile, public string) {
	t.Helper()
	user := newKeyPair(t, nkeys.CreateUser)
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, "user.nk", seed), publicKey(t, user)
}

// newAccount makes an account, and its JWT. storage is what its streams may take, -1 for all.
func newAccount(t *testing.T, operator nkeys.KeyPair, storage int64) (account nkeys.KeyPair, token string) {
	t.Helper()
	account = newKeyPair(t, nkeys.CreateAccount)
	claims := jwt.NewAccountClaims(publicKey(t, account))
	claims.Limits.MemoryStorage, claims.Limits.DiskStorage, claims.Limits.Streams, claims.Limits.Consumer = storage, storage, -1, -1
	token, err := claims.Encode(operator)
	must(t, err)
	return account, token
}

func newCredentials(t *testing.T, account nkeys.KeyPair) string {
	t.Helper()
	user := newKeyPair(t, nkeys.CreateUser)
	token, err := jwt.NewUserClaims(publicKey(t, user)).Encode(account)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	creds, err := jwt.FormatUserConfig(token, seed)
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, "user.creds", creds)
}

func writeFile(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// newTLS makes a certificate for 127.0.0.1 and the two ends' configurations.
func newTLS(t *testing.T) (forServer, forClient *tls.Config) {
	t.Helper()
	certificate, key := newCertificate(t)
	pair, err := tls.X509KeyPair(certificate, key)
	must(t, err)
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}, trusting(certificate)
}

// trusting returns the configuration of a client that trusts a certificate.
func trusting(certificate []byte) *tls.Config {
	c := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS13}
	c.RootCAs.AppendCertsFromPEM(certificate)
	return c
}

// newCertificate makes a certificate for 127.0.0.1, signed by itself, in PEM.
func newCertificate(t *testing.T) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true,
		BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	must(t, err)
	secret, err := x509.MarshalECPrivateKey(private)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret})
}

// A secret that was given in the wrong place is in no error.
func TestErrorsShowNoSecret(t *testing.T) {
	t.Parallel()
	key, err := nkeys.CreateUser()
	must(t, err)
	seed, err := key.Seed()
	must(t, err)
	const creds = "-----BEGIN NATS USER JWT-----\neyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.S3CRET"
	there := bus.WithURL("nats://127.0.0.1:1")
	b := bustest.New(t)
	for name, err := range map[string]error{
		"a seed as WithNKey":             second(bus.New(there, bus.WithNKey(string(seed)))),
		"a path with a seed as WithNKey": second(bus.New(there, bus.WithNKey("/etc/"+string(seed)))),
		"a seed as WithCredentials":      second(bus.New(there, bus.WithCredentials(string(seed)))),
		"a file as WithCredentials":      second(bus.New(there, bus.WithCredentials(creds))),
		"a JWT as WithCredentials":       second(bus.New(there, bus.WithCredentials(strings.Split(creds, "\n")[1]))),
		"no host":                        second(bus.Connect(t.Context(), "nats://ann:S3CRET")),
		"an unescaped /":                 second(bus.Connect(t.Context(), "nats://ann:p@S3CRET/127.0.0.1:1")),
		"an unescaped #":                 second(bus.Connect(t.Context(), "nats://ann:p#S3CRET@127.0.0.1:1")),
		"an unescaped comma":             second(bus.Connect(t.Context(), "nats://ann:S3CRET,b,c@127.0.0.1:1")),
		"a header":                       bus.Publish(t.Context(), b, bus.Subject[int]("x"), 1, bus.WithHeader("Authorization", "Bearer S3CRET\n")),
	} {
		if _, ok := errors.AsType[*bus.OptionError](err); !ok || strings.Contains(err.Error(), "S3CRET") || strings.Contains(err.Error(), string(seed)) {
			t.Errorf("%s: %v", name, err)
		}
		if strings.HasPrefix(name, "an unescaped") {
			hasText(t, err, "escape", "WithUser")
		}
	}
}

// A file in a folder whose name is a hash, as those of containers are, is no key.
func TestSecretFileBelowAHash(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), strings.Repeat("0a1b2c3d", 8))
	must(t, os.Mkdir(folder, 0o700))
	file := filepath.Join(folder, "bus.creds")
	must(t, os.WriteFile(file, nil, 0o600))
	nowhere := bus.WithURL("nats://127.0.0.1:1")
	asError[*bus.OptionError](t, second(bus.New(nowhere, bus.WithNKey(file))), file, "holds no NKey seed")
	err := second(bus.New(nowhere, bus.WithCredentials(file+"absent")))
	asError[*bus.OptionError](t, err, "WithCredentials", "looks like a key")
}

// Only shells replace "~".
func TestPathsWithATilde(t *testing.T) {
	t.Parallel()
	for option, err := range map[string]error{
		"WithStoreDir":    second(bus.New(bus.WithStoreDir("~/bus"))),
		"WithCredentials": second(bus.New(bus.WithURL("nats://127.0.0.1:1"), bus.WithCredentials("~/bus.creds"))),
		"WithNKey":        second(bus.New(bus.WithURL("nats://127.0.0.1:1"), bus.WithNKey("~"))),
	} {
		if e := asError[*bus.OptionError](t, err, "~", "os.UserHomeDir"); e.Option != option {
			t.Errorf("%s: got %+v", option, e)
		}
	}
	mustWork(t, bus.WithStoreDir(filepath.Join(t.TempDir(), "~x")))
}

// Of two ways to identify the bus it would depend on the server which one counts.
func TestTwoIdentities(t *testing.T) {
	t.Parallel()
	there := bus.WithURL("nats://127.0.0.1:1")
	err := second(bus.New(there, bus.WithUser("ann", "S3CRET"), bus.WithToken("S3CRET")))
	if e := asError[*bus.OptionError](t, err, "WithUser"); e.Option != "WithToken" || strings.Contains(err.Error(), "S3CRET") {
		t.Errorf("got %+v", e)
	}
	for _, opts := range [][]bus.Option{{bus.WithUser("ann", "x"), bus.WithUser("bob", "y")}, {bus.WithTLS(&tls.Config{}), bus.WithToken("x")}} {
		asError[*bus.ConnectError](t, second(bus.New(append(opts, there, bus.WithLogger(silent()))...)))
	}
}
