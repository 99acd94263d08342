package natsbus_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
)

func TestOpen_refusesWhatIsUnknownContradictoryOrIncomplete(t *testing.T) {
	dir := t.TempDir()
	certs := newAuthority(t).issue(t, "n1")
	empty := filepath.Join(dir, "empty")
	require.NoError(t, os.WriteFile(empty, []byte("\n"), 0o600))
	t.Setenv("JITNEY_TEST_SECRET", "geheim")
	const (
		three  = "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3"
		member = "?cluster=chat&member=n1&secret=geheim&route-listen=127.0.0.1:1&routes=" + three
	)
	for url, want := range map[string]string{
		// What is of another kind.
		"?routes=" + three:           `parameter "routes" is for a member of a cluster (nats:DIR?cluster=NAME); this is an embedded server`,
		"?secret-file=x":             `parameter "secret" is for a member of a cluster`,
		"?creds=x":                   `parameter "creds" is for a client of a server elsewhere (nats://HOST:PORT)`,
		"?cluster=chat&leaf=h:1":     "a member of a cluster or a leaf of one",
		"?leaf=h:1&domain=d&sync=1s": `parameter "sync" is for`,
		"?leaf=h:1&domain=d":         "a leaf stores nothing",
		"?scrub=0s":                  `parameter "scrub" is "0s": want off, or how long a round takes`,
		"?scrub=often":               `parameter "scrub" is "often"`,
		member + "&scrub=1h":         `parameter "scrub" is for an embedded server`,
		"?replicas=3":                `parameter "replicas" is for a member`,
		"?nonsense=1":                `unknown parameter "nonsense": want one of `,
		"?token=":                    `parameter "token" is empty`,
		"?cluster=chat&cluster=c":    `parameter "cluster" is given 2 times`,
		"?domain=a.b&leaf-listen=127.0.0.1:1&token=geheim": `parameter "domain" is "a.b"`,

		// Secrets.
		"?listen=127.0.0.1:1&token=geheim&token-env=X": `parameters "token" and "token-env" are both given`,
		"?listen=127.0.0.1:1&token-file=/nowhere":      `parameter "token-file": open /nowhere`,
		"?listen=127.0.0.1:1&token-file=" + empty:      `parameter "token-file": ` + empty + " is empty",
		"?listen=127.0.0.1:1&token-env=JITNEY_NO_SUCH": `parameter "token-env": JITNEY_NO_SUCH is empty`,
		"?leaf-listen=127.0.0.1:1":                     `parameter "leaf-listen" needs a token`,

		// Encryption.
		"?listen=0.0.0.0:1&token=geheim12":                                         "or say tls=off",
		"?listen=127.0.0.1:1&tls=on":                                               `parameter "tls" is "on": want off`,
		"?listen=127.0.0.1:1&tls-cert=x":                                           `parameters "tls-cert" and "tls-key" go together`,
		"?listen=127.0.0.1:1&tls-cert=/no&tls-key=/no":                             `parameters "tls-cert" and "tls-key": open /no`,
		"?tls-cert=" + certs.cert + "&tls-key=" + certs.key:                        `parameter "tls-cert" needs parameter "listen"`,
		member + "&tls-ca=" + empty:                                                "holds no certificate in PEM form",
		member + "&tls-ca=" + certs.ca:                                             `who listens needs a certificate of its own`,
		member + "&tls-ca=system&tls-cert=" + certs.cert + "&tls-key=" + certs.key: "from an authority of their own",
		member + "&tls=off&tls-ca=" + certs.ca:                                     `parameter "tls" contradicts`,

		// A cluster.
		"?cluster=chat": `parameter "member" is ""`,
		"?cluster=a.b&member=n1&secret=geheim&route-listen=127.0.0.1:1&routes=" + three: `parameter "cluster" is "a.b"`,
		"?cluster=chat&member=n1&route-listen=127.0.0.1:1&routes=" + three:              `needs parameter "secret"`,
		"?cluster=chat&member=n1&secret=geheim&routes=" + three:                         `needs parameter "route-listen"`,
		"?cluster=chat&member=n1&secret=geheim&route-listen=127.0.0.1:1":                `parameter "routes" names 0 members`,
		"?cluster=chat&member=n1&secret=geheim&route-listen=127.0.0.1:1&routes=a:1,b:1": `parameter "routes" names 2 members`,
		"?cluster=chat&member=n1&secret=geheim&route-listen=127.0.0.1:1&routes=a,b,c":   `parameter "routes" is "a": want HOST:PORT`,
		"?cluster=chat&member=n1&secret=geheim&route-listen=a:1&routes=a:1,a:1,b:1":     `"route-listen" is "a:1", which others can reach, and parameter "secret" is too short`,
		"?cluster=chat&member=n1&secret=geheim12&route-listen=a:1&routes=a:1,a:1,b:1":   `"route-listen" is "a:1", which others can reach and listen to`,
		"?cluster=chat&member=n1&secret=geheim&route-listen=127.0.0.1:1&routes=a:1,a:1": `parameter "routes" names a:1 twice`,
		member + "&replicas=4":         `parameter "replicas" is 4: there are 3 members`,
		member + "&replicas=-1":        `parameter "replicas" is "-1"`,
		member + "&route-advertise=:1": `parameter "route-advertise" is ":1"`,
		"?cluster=chat&member=n4&secret=geheim&route-listen=127.0.0.1:4&routes=" + three: `parameter "routes" doesn't name this member`,
	} {
		url = "nats:" + dir + "/store" + url
		_, err := bus.Open(t.Context(), url)
		require.ErrorContains(t, err, want, url)
		require.NotContains(t, err.Error(), "geheim")
	}
	for url, want := range map[string]string{
		"nats:?leaf=h:1":                             `a leaf needs parameter "domain"`,
		"nats:?leaf=h&domain=hub":                    `parameter "leaf" is "h": want HOST:PORT`,
		"nats:?leaf=u:geheim@h:1&domain=hub":         `parameter "leaf" holds an '@'`,
		"nats:?leaf=h:1&domain=hub&leaf-user=u":      `the user "u" needs a password: parameter "leaf-password"`,
		"nats:?leaf=h:1&domain=hub&leaf-password=x":  `parameter "leaf-password" needs a user`,
		"nats:?leaf=h:1&domain=hub&leaf-creds=/no":   `parameter "leaf-creds": open /no`,
		"nats:?leaf=h:1&domain=hub&leaf-nkey=/no":    `parameter "leaf-nkey": open /no`,
		"nats:?leaf=h:1&domain=hub&token=geheim":     `what the hub wants is "leaf-token"`,
		"nats:?leaf=h:1&domain=hub&leaf-listen=h:1":  `parameter "leaf-listen" is for`,
		"nats:?leaf=h:1&domain=hub&replicas=6":       "at most 5",
		"nats://h:1?routes=" + three:                 `parameter "routes" is for a member`,
		"nats://u@h:1?token=geheim":                  "leave one out",
		"nats://u:geheim@h:1?password=geheim":        "the password is given twice",
		"nats://h:1?password=geheim":                 `parameter "password" needs a user`,
		"nats://h:1?token=geheim&creds=" + empty:     "in more than one way",
		"nats://h:1?creds=/no":                       `parameter "creds": open /no`,
		"nats://h:1?nkey=" + empty:                   "holds no seed",
		"nats://h:1?servers=u:geheim@h":              `parameter "servers" holds an '@'`,
		"nats://h:1?replicas=6":                      "at most 5",
		"nats://h:1?tls-ca=/no":                      `parameter "tls-ca": open /no`,
		"nats://h:1?token-env=JITNEY_TEST_SECRET&x=": `unknown parameter "x"`,

		// A host that a variable was to hold.
		"nats://":                          `no host follows "//"`,
		"nats://?tls-ca=system":            `no host follows "//"`,
		"nats://:4222":                     `no host follows "//"`,
		"nats://u:geheim@":                 `no host follows "//"`,
		"nats://u:geheim@:4222":            `no host follows "//"`,
		"nats://" + dir + "/store":         `no host follows "//"`,
		"nats://" + dir + "/store?sync=1s": "or write nats:DIR",
	} {
		_, err := bus.Open(t.Context(), url)
		require.ErrorContains(t, err, want, url)
		require.NotContains(t, err.Error(), "geheim")
	}
	require.NoDirExists(t, filepath.Join(dir, "store"), "what is refused makes nothing")
}

func TestConfig_refusesWhatContradicts(t *testing.T) {
	dir := t.TempDir()
	cluster := natsbus.Cluster{Name: "chat", Member: "n1", Secret: "geheim", Listen: "127.0.0.1:1"}
	both := cluster
	both.Routes, both.Peers = []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"}, noPeers
	for want, c := range map[string]natsbus.Config{
		"both Config.Cluster and Config.Leaf":     {Dir: dir, Cluster: &cluster, Leaf: &natsbus.Leaf{}},
		"both Cluster.Routes and Cluster.Peers":   {Dir: dir, Cluster: &both},
		"Leaf.Hubs is empty":                      {Leaf: &natsbus.Leaf{}},
		"a leaf has no leaves":                    {Leaf: &natsbus.Leaf{Hubs: []string{"h:1"}}, Domain: "hub", LeafListen: "127.0.0.1:1", Token: "geheim"},
		"a leaf stores nothing":                   {Leaf: &natsbus.Leaf{Hubs: []string{"h:1"}}, Domain: "hub", Sync: natsbus.SyncFast},
		"Login.Public and Login.Sign go together": {Domain: "hub", Leaf: &natsbus.Leaf{Hubs: []string{"h:1"}, Login: natsbus.Login{Public: "U"}}},
	} {
		_, err := c.Open(t.Context())
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "geheim")
	}
	_, err := natsbus.Client{}.Open(t.Context())
	require.ErrorContains(t, err, "Client.Servers is empty")
}

func noPeers(context.Context) ([]string, error) { return nil, nil }
