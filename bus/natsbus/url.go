package natsbus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

// kind is what a URL opens.
type kind string

const (
	alone  kind = "an embedded server (nats:DIR)"
	member kind = "a member of a cluster (nats:DIR?cluster=NAME)"
	leaf   kind = "a leaf (nats:?leaf=HOST:PORT)"
	client kind = "a client of a server elsewhere (nats://HOST:PORT)"
)

// grammar is what a URL can say, and of which kind.
var grammar = []struct {
	name   string
	secret bool // also as NAME-file and NAME-env
	of     []kind
}{
	{"sync", false, []kind{alone, member}},
	{"scrub", false, []kind{alone}},
	{"listen", false, []kind{alone, member, leaf}},
	{"leaf-listen", false, []kind{alone, member}},
	{"token", true, []kind{alone, member, leaf, client}},
	{"domain", false, []kind{alone, member, leaf, client}},
	{"replicas", false, []kind{member, leaf, client}},
	{"tls", false, []kind{alone, member, leaf}},
	{"tls-cert", false, []kind{alone, member, leaf, client}},
	{"tls-key", false, []kind{alone, member, leaf, client}},
	{"tls-ca", false, []kind{member, leaf, client}},

	{"cluster", false, []kind{member}},
	{"member", false, []kind{member}},
	{"routes", false, []kind{member}},
	{"route-listen", false, []kind{member}},
	{"route-advertise", false, []kind{member}},
	{"secret", true, []kind{member}},

	{"leaf", false, []kind{leaf}},
	{"leaf-user", false, []kind{leaf}},
	{"leaf-password", true, []kind{leaf}},
	{"leaf-token", true, []kind{leaf}},
	{"leaf-nkey", false, []kind{leaf}},
	{"leaf-creds", false, []kind{leaf}},

	{"servers", false, []kind{client}},
	{"password", true, []kind{client}},
	{"nkey", false, []kind{client}},
	{"creds", false, []kind{client}},
}

const (
	fromFile = "-file"
	fromEnv  = "-env"
)

func openURL(ctx context.Context, u *url.URL, o bus.OpenOptions) (bus.Bus, error) {
	if !u.OmitHost {
		c, err := parseClient(u)
		if err != nil {
			return nil, err
		}
		return c.open(ctx, o)
	}
	c, err := parseEmbedded(u)
	if err != nil {
		return nil, err
	}
	return c.open(ctx, o)
}

func parseClient(u *url.URL) (c Client, err error) {
	if u.Hostname() == "" { // as of a variable that isn't set
		return c, errors.New("no host follows \"//\": name one (nats://HOST:PORT), or write nats:DIR, without \"//\", for an embedded server")
	}
	if u.Path != "" && u.Path != "/" {
		return c, fmt.Errorf("a server's URL has no path (%s); a directory is written nats:%s", u.Path, u.Path)
	}
	p, err := newParams(u, client)
	if err != nil {
		return c, err
	}
	c = Client{Servers: []string{u.Host}, Domain: p.values["domain"], Login: Login{Creds: p.values["creds"], Nkey: p.values["nkey"]}}
	if more := p.values["servers"]; more != "" {
		c.Servers = append(c.Servers, strings.Split(more, ",")...)
	}
	var errs [4]error
	c.Login.Token, errs[0] = p.secret("token")
	c.Login.Password, errs[1] = p.secret("password")
	c.Replicas, errs[2] = p.number("replicas")
	c.TLS, errs[3] = p.tls()
	if err := errors.Join(errs[:]...); err != nil {
		return c, err
	}
	name := u.User.Username()
	password, given := u.User.Password()
	switch {
	case given && c.Login.Password != "":
		return c, fmt.Errorf("the password is given twice, before the host and as a parameter: leave one out")
	case given:
		c.Login.User, c.Login.Password = name, password
	case c.Login.Password != "":
		c.Login.User = name
	case name != "" && c.Login.Token != "":
		return c, fmt.Errorf("both a user or token before the host and parameter %q are given: leave one out", "token")
	case name != "":
		c.Login.Token = name // as the clients of NATS read it
	}
	return c, nil
}

func parseEmbedded(u *url.URL) (c Config, err error) {
	k := alone
	query := u.Query()
	switch {
	case query.Has("cluster") && query.Has("leaf"):
		return c, fmt.Errorf("parameters %q and %q are both given: a server is a member of a cluster or a leaf of one", "cluster", "leaf")
	case query.Has("cluster"):
		k = member
	case query.Has("leaf"):
		k = leaf
	}
	p, err := newParams(u, k)
	if err != nil {
		return c, err
	}
	v := p.values
	c = Config{Dir: u.Opaque, Listen: v["listen"], LeafListen: v["leaf-listen"], Domain: v["domain"]}
	if c.Dir == "" {
		c.Dir = u.Path
	}
	var errs [5]error
	c.Token, errs[0] = p.secret("token")
	c.Sync, errs[1] = parseSync(v["sync"])
	c.TLS, errs[2] = p.tls()
	c.PlainText, errs[3] = p.off("tls")
	c.Scrub, errs[4] = parseScrub(v["scrub"])
	if err := errors.Join(errs[:]...); err != nil {
		return c, err
	}
	switch k {
	case member:
		m := &Cluster{Name: v["cluster"], Member: v["member"], Listen: v["route-listen"], Advertise: v["route-advertise"]}
		if v["routes"] != "" {
			m.Routes = strings.Split(v["routes"], ",")
		}
		m.Secret, errs[0] = p.secret("secret")
		m.Replicas, errs[1] = p.number("replicas")
		c.Cluster = m
	case leaf:
		l := &Leaf{Hubs: strings.Split(v["leaf"], ","), Login: Login{User: v["leaf-user"], Creds: v["leaf-creds"], Nkey: v["leaf-nkey"]}}
		l.Login.Password, errs[0] = p.secret("leaf-password")
		l.Login.Token, errs[1] = p.secret("leaf-token")
		l.Replicas, errs[2] = p.number("replicas")
		c.Leaf = l
	}
	return c, errors.Join(errs[:]...)
}

// params is what a URL says.
type params struct{ values map[string]string }

// newParams reads the parameters of a URL of a kind. What it doesn't know it refuses by name, and so what is empty: an
// unset variable of a shell must not become a server without a token.
func newParams(u *url.URL, k kind) (params, error) {
	var allowed []string
	for _, g := range grammar {
		names := []string{g.name}
		if g.secret {
			names = append(names, g.name+fromFile, g.name+fromEnv)
		}
		switch {
		case slices.Contains(g.of, k):
			allowed = append(allowed, names...)
		case slices.ContainsFunc(names, u.Query().Has):
			var of []string
			for _, other := range g.of {
				of = append(of, string(other))
			}
			return params{}, fmt.Errorf("parameter %q is for %s; this is %s", g.name, strings.Join(of, " and "), k)
		}
	}
	values, err := driver.Params(u, allowed...)
	if err != nil {
		return params{}, err
	}
	for name, value := range values {
		if value == "" {
			return params{}, fmt.Errorf("parameter %q is empty: give it a value or leave it out", name)
		}
	}
	return params{values}, nil
}

// secret reads a secret from the URL itself or, since a command line can be seen by all users of the machine, from a file
// or the environment.
func (p params) secret(name string) (string, error) {
	var given []string
	for _, from := range []string{name, name + fromFile, name + fromEnv} {
		if p.values[from] != "" {
			given = append(given, from)
		}
	}
	switch {
	case len(given) == 0:
		return "", nil
	case len(given) > 1:
		return "", fmt.Errorf("parameters %q and %q are both given: leave one out", given[0], given[1])
	}
	from, value := given[0], p.values[given[0]]
	switch from {
	case name + fromFile:
		text, err := os.ReadFile(value)
		if err != nil {
			return "", fmt.Errorf("parameter %q: %w", from, err)
		}
		value = strings.TrimSpace(string(text))
	case name + fromEnv:
		value = os.Getenv(value)
	}
	if value == "" {
		return "", fmt.Errorf("parameter %q: %s is empty", from, p.values[from])
	}
	return value, nil
}

func (p params) number(name string) (int, error) {
	text := p.values[name]
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("parameter %q is %q: want a number from 1", name, text)
	}
	return n, nil
}

func (p params) off(name string) (bool, error) {
	if value := p.values[name]; value != "" && value != "off" {
		return false, fmt.Errorf("parameter %q is %q: want off, or leave it out", name, value)
	}
	return p.values[name] == "off", nil
}

// tls reads the files that encrypt. The certificate is read again whenever it is shown, so that it can be renewed.
func (p params) tls() (*tls.Config, error) {
	cert, key, ca := p.values["tls-cert"], p.values["tls-key"], p.values["tls-ca"]
	switch {
	case (cert == "") != (key == ""):
		return nil, fmt.Errorf("parameters %q and %q go together", "tls-cert", "tls-key")
	case cert == "" && ca == "":
		return nil, nil
	case p.values["tls"] != "":
		return nil, fmt.Errorf("parameter %q contradicts the files that are given for TLS", "tls")
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if cert != "" {
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(cert, key)
			if err != nil {
				return nil, fmt.Errorf("parameters %q and %q: %w", "tls-cert", "tls-key", err)
			}
			return &pair, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return load() }
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	if ca != "" && ca != systemCA {
		text, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("parameter %q: %w", "tls-ca", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("parameter %q: %s holds no certificate in PEM form", "tls-ca", ca)
		}
	}
	return config, nil
}

// systemCA stands for the authorities that the machine trusts.
const systemCA = "system"

// splitAddr reads HOST:PORT.
func splitAddr(name, addr string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(addr)
	n, errPort := strconv.ParseUint(text, 10, 16)
	if strings.Contains(addr, "@") {
		return "", 0, fmt.Errorf("parameter %q holds an '@': want HOST:PORT; user and password have parameters of their own", name)
	}
	if err != nil || errPort != nil || n == 0 || strings.Contains(host, "/") {
		return "", 0, fmt.Errorf("parameter %q is %q: want HOST:PORT, such as 127.0.0.1:4222", name, addr)
	}
	return host, int(n), nil
}

// checkAddrs checks the addresses of others.
func checkAddrs(name string, addrs []string) error {
	for i, addr := range addrs {
		host, _, err := splitAddr(name, addr)
		switch {
		case err != nil:
			return err
		case host == "":
			return fmt.Errorf("parameter %q is %q: want HOST:PORT, with a host", name, addr)
		case slices.Contains(addrs[:i], addr):
			return fmt.Errorf("parameter %q names %s twice", name, addr)
		}
	}
	return nil
}

// parseScrub reads how often files are checked.
func parseScrub(text string) (time.Duration, error) {
	switch text {
	case "":
		return 0, nil
	case "off":
		return -1, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("parameter %q is %q: want off, or how long a round takes in which all files are checked, such as 24h", "scrub", text)
	}
	return d, nil
}
