package modelkeep

import (
	"context"
	"fmt"
	"os"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// tokenSource gives the token to show; it is asked before each call.
type tokenSource interface {
	token() (string, error)
}

// tokenFile is a file that holds one token. It is read for each call, since a suite makes new tokens at each start.
type tokenFile string

func (file tokenFile) token() (string, error) {
	text, err := os.ReadFile(string(file))
	if err != nil {
		return "", fmt.Errorf("the token file cannot be read (%w): name another by Config.TokenFile or "+
			"MODELKEEP_TOKEN_FILE, or start the suite", err)
	}
	words := strings.Fields(string(text))
	if len(words) != 1 {
		return "", fmt.Errorf("the token file %s does not hold one token", file)
	}
	return words[0], nil
}

func (file tokenFile) readable() bool {
	opened, err := os.Open(string(file))
	if err == nil {
		opened.Close()
	}
	return err == nil
}

// tokenText is a token itself.
type tokenText string

func (text tokenText) token() (string, error) { return string(text), nil }

// callCredentials shows a token with each call.
type callCredentials struct {
	source tokenSource
	secure bool
}

func (shown callCredentials) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := shown.source.token()
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

// RequireTransportSecurity keeps a token off plain connections where the caller has asked for safe ones; on loopback
// and on UNIX sockets the services take them without TLS.
func (shown callCredentials) RequireTransportSecurity() bool { return shown.secure }
