package natsbus_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
)

// nkey is a key pair as NATS writes it (nkeys: a prefix, the key and a checksum in base 32).
type nkey struct {
	kind byte
	key  ed25519.PrivateKey
}

// The kinds of keys.
const (
	ofOperator = 14 << 3
	ofAccount  = 0
	ofUser     = 20 << 3
	ofSeed     = 18 << 3
)

func newNkey(t *testing.T, kind byte) nkey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return nkey{kind, key}
}

func (k nkey) public() string {
	return encodeNkey(append([]byte{k.kind}, k.key.Public().(ed25519.PublicKey)...))
}

func (k nkey) seed() string {
	return encodeNkey(append([]byte{ofSeed | k.kind>>5, k.kind & 31 << 3}, k.key.Seed()...))
}

func encodeNkey(raw []byte) string {
	crc := uint16(0) // CRC-16/XMODEM
	for _, b := range raw {
		crc ^= uint16(b) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(binary.LittleEndian.AppendUint16(raw, crc))
}

// jwt is a claim about a key, signed by another one.
func (k nkey) jwt(t *testing.T, by nkey, kind string) string {
	t.Helper()
	part := func(v any) string {
		text, err := json.Marshal(v)
		require.NoError(t, err)
		return base64.RawURLEncoding.EncodeToString(text)
	}
	limits := map[string]any{"subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "data": -1, "payload": -1, "wildcards": true}
	if kind == "account" {
		maps.Copy(limits, map[string]any{"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1})
	}
	claims := map[string]any{"version": 2, "type": "account", "limits": limits}
	if kind == "user" {
		claims = map[string]any{"version": 2, "type": kind, "subs": -1, "data": -1, "payload": -1}
	}
	text := part(map[string]string{"typ": "JWT", "alg": "ed25519-nkey"}) + "." +
		part(map[string]any{"jti": k.public(), "iat": time.Now().Unix(), "iss": by.public(), "sub": k.public(), "name": kind, "nats": claims})
	return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(by.key, []byte(text)))
}

// useOf publishes and reads back on a bus.
func useOf(t *testing.T, b bus.Bus) {
	t.Helper()
	require.NoError(t, b.EnsureStreams(t.Context(), chat))
	var receipt bus.Receipt
	require.NoError(t, b.Publish(t.Context(), "chat.Go", []byte("hello"), bus.WithReceipt(&receipt)))
	var got collector
	_, err := b.Subscribe(t.Context(), "chat.*", got.handle, bus.Last(1))
	require.NoError(t, err)
	require.Equal(t, []string{"hello"}, got.texts())
}

func secretFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func TestClient_saysWhoItIs(t *testing.T) {
	user, stranger := newNkey(t, ofUser), newNkey(t, ofUser)
	operator, system, account, holder := newNkey(t, ofOperator), newNkey(t, ofAccount), newNkey(t, ofAccount), newNkey(t, ofUser)
	creds := func(jwt, seed string) string {
		return secretFile(t, "-----BEGIN NATS USER JWT-----\n"+jwt+"\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n"+seed+"\n------END USER NKEY SEED------\n")
	}
	accounts := &server.MemAccResolver{}
	require.NoError(t, accounts.Store(system.public(), system.jwt(t, operator, "system")))
	require.NoError(t, accounts.Store(account.public(), account.jwt(t, operator, "account")))
	sign := func(k nkey) func([]byte) ([]byte, error) {
		return func(nonce []byte) ([]byte, error) { return ed25519.Sign(k.key, nonce), nil }
	}
	t.Setenv("JITNEY_TEST_PASSWORD", "geheim")

	for name, c := range map[string]struct {
		server server.Options
		right  []string // of what follows nats://, with %s for the address
		wrong  []string
		config []natsbus.Login
	}{
		"user": {
			server: server.Options{Username: "chat", Password: "geheim"},
			right: []string{
				"chat:geheim@%s", "chat@%s?password=geheim", "chat@%s?password-file=" + secretFile(t, "geheim\n"),
				"chat@%s?password-env=JITNEY_TEST_PASSWORD",
			},
			wrong:  []string{"%s", "chat:falsch@%s", "chat@%s", "%s?token=geheim"},
			config: []natsbus.Login{{User: "chat", Password: "geheim"}},
		},
		"token": {
			server: server.Options{Authorization: "geheim"},
			right:  []string{"geheim@%s", "%s?token=geheim", "%s?token-file=" + secretFile(t, "geheim"), "%s?token-env=JITNEY_TEST_PASSWORD"},
			wrong:  []string{"%s", "falsch@%s", "%s?token=falsch"},
			config: []natsbus.Login{{Token: "geheim"}},
		},
		"nkey": {
			server: server.Options{Nkeys: []*server.NkeyUser{{Nkey: user.public()}}},
			right:  []string{"%s?nkey=" + secretFile(t, user.seed()+"\n")},
			wrong:  []string{"%s", "%s?nkey=" + secretFile(t, stranger.seed()), "%s?token=geheim"},
			config: []natsbus.Login{{Public: user.public(), Sign: sign(user)}},
		},
		"creds": {
			server: server.Options{TrustedKeys: []string{operator.public()}, AccountResolver: accounts, SystemAccount: system.public()},
			right:  []string{"%s?creds=" + creds(holder.jwt(t, account, "user"), holder.seed())},
			wrong:  []string{"%s", "%s?creds=" + creds(holder.jwt(t, stranger, "user"), holder.seed()), "%s?nkey=" + secretFile(t, holder.seed())},
		},
	} {
		c.server.Port, c.server.StoreDir = -1, t.TempDir()
		s := startServerWith(t, c.server)
		addr := s.Addr().String()
		for _, url := range c.right {
			b, err := bus.Open(t.Context(), "nats://"+fmt.Sprintf(url, addr))
			require.NoError(t, err, "%s: %s", name, url)
			useOf(t, b)
			require.NoError(t, b.Close(t.Context()))
		}
		for _, login := range c.config {
			b, err := natsbus.Client{Servers: []string{addr}, Login: login}.Open(t.Context())
			require.NoError(t, err, name)
			useOf(t, b)
			require.NoError(t, b.Close(t.Context()))
		}
		for _, url := range c.wrong {
			_, err := bus.Open(t.Context(), "nats://"+fmt.Sprintf(url, addr))
			require.ErrorIs(t, err, bus.ErrUnavailable, "%s: %s", name, url)
			require.ErrorContains(t, err, "are the credentials right?", "%s: %s", name, url)
			require.NotContains(t, err.Error(), "geheim")
			require.NotContains(t, err.Error(), "falsch")
		}
	}
}

func TestClient_encrypts(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	own := ours.issue(t, "server")
	pool := x509.NewCertPool()
	pool.AddCert(ours.cert)
	open := func(url string) error {
		b, err := bus.Open(t.Context(), url)
		if err == nil {
			useOf(t, b)
			require.NoError(t, b.Close(t.Context()))
		}
		return err
	}
	for _, mutual := range []bool{false, true} {
		config := serverTLS(t, ours)
		if mutual {
			config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, pool
		}
		s := startServerWith(t, server.Options{Port: -1, StoreDir: t.TempDir(), TLSConfig: config, TLSTimeout: 5})
		url := "nats://" + s.Addr().String()
		client, foreign := ours.issue(t, "client"), theirs.issue(t, "client")
		certificate := "&tls-cert=" + client.cert + "&tls-key=" + client.key
		require.NoError(t, open(url+"?tls-ca="+own.ca+certificate))
		b, err := natsbus.Client{Servers: []string{s.Addr().String()}, TLS: &tls.Config{RootCAs: pool, Certificates: config.Certificates}}.Open(t.Context())
		require.NoError(t, err)
		require.NoError(t, b.Close(t.Context()))
		if without := open(url + "?tls-ca=" + own.ca); mutual {
			require.ErrorIs(t, without, bus.ErrUnavailable, "a certificate is required")
			require.ErrorIs(t, open(url+"?tls-ca="+own.ca+"&tls-cert="+foreign.cert+"&tls-key="+foreign.key), bus.ErrUnavailable)
		} else {
			require.NoError(t, without)
		}
		require.ErrorIs(t, open(url), bus.ErrUnavailable, "the machine doesn't trust the authority")
		require.ErrorIs(t, open(url+"?tls-ca=system"+certificate), bus.ErrUnavailable)
		require.ErrorIs(t, open(url+"?tls-ca="+theirs.file+certificate), bus.ErrUnavailable)
	}
	plain := startServer(t, t.TempDir(), -1)
	require.ErrorIs(t, open(plain.ClientURL()+"?tls-ca="+own.ca), bus.ErrUnavailable, "what is to be encrypted isn't sent in the clear")
}

func TestListen_encrypts(t *testing.T) {
	ours := newAuthority(t)
	own := ours.issue(t, "server")
	addr := fmt.Sprint("127.0.0.1:", freePort(t))
	b, err := bus.Open(t.Context(), "nats:"+t.TempDir()+"?listen="+addr+"&token=geheim&tls-cert="+own.cert+"&tls-key="+own.key)
	require.NoError(t, err)
	useOf(t, b)
	_, err = bus.Open(t.Context(), "nats://"+addr+"?token=geheim")
	require.ErrorIs(t, err, bus.ErrUnavailable)
	other, err := bus.Open(t.Context(), "nats://"+addr+"?token=geheim&tls-ca="+own.ca)
	require.NoError(t, err)
	useOf(t, other)
	require.NoError(t, other.Close(t.Context()))

	// A certificate can be renewed under way.
	renewed := ours.issue(t, "server")
	for from, to := range map[string]string{renewed.cert: own.cert, renewed.key: own.key} {
		text, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(to, text, 0o600))
	}
	pool := x509.NewCertPool()
	pool.AddCert(ours.cert)
	var serial int64
	config := &tls.Config{RootCAs: pool, VerifyConnection: func(s tls.ConnectionState) error {
		serial = s.PeerCertificates[0].SerialNumber.Int64()
		return nil
	}}
	other, err = natsbus.Client{Servers: []string{addr}, Login: natsbus.Login{Token: "geheim"}, TLS: config}.Open(t.Context())
	require.NoError(t, err)
	require.NoError(t, other.Close(t.Context()))
	require.Equal(t, int64(3), serial, "the second one that was issued")
	require.NoError(t, b.Close(t.Context()))
}

func TestClient_triesTheServersThatItIsGiven(t *testing.T) {
	s := startServer(t, t.TempDir(), -1)
	b, err := bus.Open(t.Context(), "nats://127.0.0.1:1?servers=127.0.0.1:2,"+s.Addr().String())
	require.NoError(t, err)
	useOf(t, b)
	require.NoError(t, b.Close(context.Background()))
}

func TestClient_saysWhatTheServerDoesNotHave(t *testing.T) {
	s := startServer(t, t.TempDir(), -1)
	_, err := bus.Open(t.Context(), s.ClientURL()+"?domain=nope")
	require.ErrorIs(t, err, bus.ErrUnavailable)
	require.ErrorContains(t, err, "is it enabled")
	require.ErrorContains(t, err, "$JS.nope.API.>")
	err = openURL(t, s.ClientURL()+"?replicas=3").EnsureStreams(t.Context(), chat)
	require.ErrorIs(t, err, bus.ErrBadStream, "waiting won't help")
	require.NotErrorIs(t, err, bus.ErrUnavailable)
	require.ErrorContains(t, err, `"CHAT"`)
	require.ErrorContains(t, err, "replicas > 1")
}

func TestClient_anAccountWithoutJetStreamIsForbidden(t *testing.T) {
	account := server.NewAccount("NONE")
	s := startServerWith(t, server.Options{Port: -1, StoreDir: t.TempDir(), Accounts: []*server.Account{account},
		Users: []*server.User{{Username: "none", Password: "x", Account: account}}})
	_, err := bus.Open(t.Context(), "nats://none:x@"+s.Addr().String(), quietly(t))
	require.ErrorIs(t, err, bus.ErrForbidden)
	require.NotErrorIs(t, err, bus.ErrUnavailable)
	require.ErrorContains(t, err, "not enabled for account")
}
