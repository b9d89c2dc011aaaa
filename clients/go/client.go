package modelkeep

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	downloadv1 "modelkeep.dev/go/modelkeep/download/v1"
	installv1 "modelkeep.dev/go/modelkeep/install/v1"
	loaderv1 "modelkeep.dev/go/modelkeep/loader/v1"
	recordv1 "modelkeep.dev/go/modelkeep/record/v1"
	serverv1 "modelkeep.dev/go/modelkeep/server/v1"
)

// Config says which suite is called, and by whom. The zero value is the suite that runs on this machine for this user.
type Config struct {
	// Addresses of services, host:port or unix:/path. What is not in it is found: see DataDir.
	Addresses map[Service]string
	// Gateway is the host:port of a gateway that stands before all four services, such as one of deploy/envoy; then
	// nothing else is looked for.
	Gateway string
	// DataDir is the data folder of the suite. Without it the environment is looked at
	// (MODELKEEP_CLIENT_RECORD_ADDRESS and its like, MODELKEEP_DATA_DIR), then ./modelkeep-data, then the default
	// ports.
	DataDir string
	// TokenFile is a file with the token to show; without it MODELKEEP_TOKEN_FILE, and then the owner's of the suite.
	TokenFile string
	// Token is the token to show; it comes before TokenFile.
	Token string
	// TLS names the files by which services are called over TCP; what it leaves out, MODELKEEP_CA_FILE,
	// MODELKEEP_CERT_FILE and MODELKEEP_KEY_FILE say. UNIX sockets are always plain.
	TLS TLSFiles
	// Credentials of the connections over TCP, in place of TLS, for what files do not say.
	Credentials credentials.TransportCredentials
	// Timeout is for how long a unary call may take, with its repetitions, whose context has no deadline; 0: half a
	// minute (DefaultTimeout), below 0: for ever.
	Timeout time.Duration
	// Patience is for how long a service may be away before a watch or a lease that has begun gives up; 0: a minute.
	Patience time.Duration
	// Options for every connection; they come last.
	Options []grpc.DialOption
}

func (config Config) token(environment func(string) string) tokenSource {
	if config.Token != "" {
		return tokenText(config.Token)
	}
	if file := firstOf(config.TokenFile, environment("MODELKEEP_TOKEN_FILE")); file != "" {
		return tokenFile(file)
	}
	return nil
}

// Client calls the services of one suite. It may be used by several goroutines at once.
type Client struct {
	// Records of models: what there is, and what is known of it.
	Records recordv1.RecordServiceClient
	// Downloads of files and repositories.
	Downloads downloadv1.DownloadServiceClient
	// Installs: any source in, a registered model out.
	Installs installv1.InstallServiceClient
	// Loader of weights, which it lends.
	Loader loaderv1.LoaderServiceClient

	connections map[Service]*connection
	patience    time.Duration
}

// Dial makes a client. It connects when it is first used, so an error here is one of the configuration.
func Dial(config Config) (*Client, error) {
	addresses, err := findAddresses(config, os.Getenv)
	if err != nil {
		return nil, err
	}
	client := &Client{connections: map[Service]*connection{}, patience: config.Patience}
	if client.patience == 0 {
		client.patience = time.Minute
	}
	for service, found := range addresses {
		connection, err := connect(config, service, found)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("the %s service (address from %s): %w", service, found.origin, err),
				client.Close())
		}
		client.connections[service] = connection
	}
	client.Records = recordv1.NewRecordServiceClient(client.connections[Record])
	client.Downloads = downloadv1.NewDownloadServiceClient(client.connections[Download])
	client.Installs = installv1.NewInstallServiceClient(client.connections[Install])
	client.Loader = loaderv1.NewLoaderServiceClient(client.connections[Loader])
	return client, nil
}

// Info is what a service says about itself: version, features, limits, roots.
func (client *Client) Info(ctx context.Context, service Service) (*serverv1.GetServerInfoResponse, error) {
	stub := serverv1.NewServerServiceClient(client.connections[service])
	return stub.GetServerInfo(ctx, &serverv1.GetServerInfoRequest{})
}

// Connection is the connection to a service, for calls that no stub here has.
func (client *Client) Connection(service Service) grpc.ClientConnInterface {
	return client.connections[service]
}

// Close ends the connections, and with them the calls under way. Jobs go on in the services.
func (client *Client) Close() error {
	var failed []error
	for _, connection := range client.connections {
		failed = append(failed, connection.close())
	}
	return errors.Join(failed...)
}

func connect(config Config, service Service, found address) (*connection, error) {
	// A service that is nowhere is an error of the call that needs it, not of the others.
	target := found.target
	if target == "" {
		target = "passthrough:///nowhere"
	}
	timeout := config.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	secure := config.Credentials
	if secure == nil || found.isLocal() {
		secure = insecure.NewCredentials()
	}
	options := []grpc.DialOption{
		grpc.WithUserAgent(userAgent()),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)),
		// A service that comes back is found again at once.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.2, MaxDelay: 200 * time.Millisecond},
			MinConnectTimeout: 5 * time.Second,
		}),
		// A dead peer that never said goodbye is noticed; services allow a ping every 10 s.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		// A proxy in the environment is for the internet, where no service of the suite is.
		grpc.WithNoProxy(),
		grpc.WithChainUnaryInterceptor(decodeUnary(service, found), limitUnary(timeout)),
		grpc.WithChainStreamInterceptor(decodeStream(service, found)),
	}
	if found.token != nil {
		shown := callCredentials{found.token, !found.isLocal() && (config.Credentials != nil || found.tls != nil)}
		options = append(options, grpc.WithPerRPCCredentials(shown))
	}
	return newConnection(found, secure, func(shown credentials.TransportCredentials) (*grpc.ClientConn, error) {
		last := append([]grpc.DialOption{grpc.WithTransportCredentials(shown)}, config.Options...)
		return grpc.NewClient(target, append(slices.Clip(options), last...)...)
	})
}

// limitUnary ends calls after a while whose context would not.
func limitUnary(timeout time.Duration) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, request, answer any, connection *grpc.ClientConn,
		invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		if _, limited := ctx.Deadline(); !limited && timeout > 0 {
			within, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			ctx = within
		}
		return invoke(ctx, method, request, answer, connection, options...)
	}
}

// userAgent is how calls tell what makes them; gRPC adds its own name.
var userAgent = sync.OnceValue(func() string {
	const module = "modelkeep.dev/go"
	build, _ := debug.ReadBuildInfo()
	if build != nil {
		for _, used := range append(build.Deps, &build.Main) {
			if used.Path == module && strings.HasPrefix(used.Version, "v") {
				return "modelkeep-go/" + used.Version[1:]
			}
		}
	}
	return "modelkeep-go"
})
