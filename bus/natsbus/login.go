package natsbus

import (
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Login is how a server elsewhere knows who comes: by one of these, or nothing.
type Login struct {
	User, Password string
	Token          string
	Creds          string // a file with a JWT and its nkey seed; it is read at each connect
	Nkey           string // a file with an nkey seed
	// Public is an nkey whose private part Sign has: it signs what the server sends. A leaf can't use it.
	Public string
	Sign   func(nonce []byte) ([]byte, error)
}

// check says what is wrong. The parameters of a URL have a prefix.
func (l *Login) check(prefix string) error {
	ways := 0
	for _, given := range []bool{l.User != "" || l.Password != "", l.Token != "", l.Creds != "", l.Nkey != "", l.Public != "" || l.Sign != nil} {
		if given {
			ways++
		}
	}
	switch {
	case ways > 1:
		return fmt.Errorf("who comes is told in more than one way (user and password, token, nkey, creds): leave one")
	case l.User == "" && l.Password != "":
		return fmt.Errorf("parameter %q needs a user", prefix+"password")
	case l.User != "" && l.Password == "":
		return fmt.Errorf("the user %q needs a password: parameter %q, or better %q or %q", l.User, prefix+"password", prefix+"password-file", prefix+"password-env")
	case (l.Public == "") != (l.Sign == nil):
		return fmt.Errorf("Login.Public and Login.Sign go together")
	case l.Creds != "":
		f, err := os.Open(l.Creds)
		if err != nil {
			return fmt.Errorf("parameter %q: %w", prefix+"creds", err)
		}
		return f.Close()
	}
	return nil
}

// options are those of a client.
func (l *Login) options() ([]nats.Option, error) {
	if err := l.check(""); err != nil {
		return nil, err
	}
	switch {
	case l.User != "":
		return []nats.Option{nats.UserInfo(l.User, l.Password)}, nil
	case l.Token != "":
		return []nats.Option{nats.Token(l.Token)}, nil
	case l.Creds != "":
		return []nats.Option{nats.UserCredentials(l.Creds)}, nil
	case l.Nkey != "":
		if _, err := readSeed("nkey", l.Nkey); err != nil {
			return nil, err
		}
		option, err := nats.NkeyOptionFromSeed(l.Nkey)
		if err != nil {
			return nil, fmt.Errorf("parameter %q: %w", "nkey", err)
		}
		return []nats.Option{option}, nil
	case l.Sign != nil:
		return []nats.Option{nats.Nkey(l.Public, l.Sign)}, nil
	}
	return nil, nil
}

// remote puts it into what a leaf connects to.
func (l *Login) remote(r *server.RemoteLeafOpts) error {
	if err := l.check("leaf-"); err != nil {
		return err
	}
	var user *url.Userinfo
	switch {
	case l.User != "":
		user = url.UserPassword(l.User, l.Password)
	case l.Token != "":
		user = url.User(l.Token)
	case l.Creds != "":
		r.Credentials = l.Creds
	case l.Nkey != "":
		var err error
		if r.Nkey, err = readSeed("leaf-nkey", l.Nkey); err != nil {
			return err
		}
	case l.Sign != nil:
		return fmt.Errorf("Login.Sign: a leaf can't sign by a function: give Login.Nkey, a file with the seed, or Login.Creds")
	}
	for _, u := range r.URLs {
		u.User = user
	}
	return nil
}

// readSeed reads the seed of a user's nkey from a file, among whatever lines decorate it.
func readSeed(param, file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("parameter %q: %w", param, err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "SU") {
			return line, nil
		}
	}
	return "", fmt.Errorf("parameter %q: %s holds no seed of a user's nkey (SU...)", param, file)
}
