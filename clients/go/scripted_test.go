package modelkeep

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	recordv1 "modelkeep.dev/go/modelkeep/record/v1"
)

// scripted is a RecordService that does as a test says, over a real connection.
type scripted struct {
	recordv1.UnimplementedRecordServiceServer
	get    func(context.Context) (*recordv1.GetModelResponse, error)
	create func(context.Context) (*recordv1.CreateModelResponse, error)
	watch  func(*recordv1.WatchModelsRequest, grpc.ServerStreamingServer[recordv1.WatchModelsResponse]) error
	die    func() // ends it and its connections, once it is served
}

func (service *scripted) GetModel(ctx context.Context, _ *recordv1.GetModelRequest) (*recordv1.GetModelResponse, error) {
	if service.get == nil {
		return service.UnimplementedRecordServiceServer.GetModel(ctx, nil)
	}
	return service.get(ctx)
}

func (service *scripted) CreateModel(
	ctx context.Context, _ *recordv1.CreateModelRequest,
) (*recordv1.CreateModelResponse, error) {
	return service.create(ctx)
}

func (service *scripted) WatchModels(
	request *recordv1.WatchModelsRequest, stream grpc.ServerStreamingServer[recordv1.WatchModelsResponse],
) error {
	return service.watch(request, stream)
}

// serve a service until the test ends; its address.
func serve(t testing.TB, service *scripted, options ...grpc.ServerOption) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(options...)
	recordv1.RegisterRecordServiceServer(server, service)
	service.die = server.Stop
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

// dial a record service; whatever the configuration does not say is not looked for.
func dial(t testing.TB, address string, config Config) *Client {
	t.Helper()
	config.DataDir = t.TempDir()
	config.Addresses = map[Service]string{Record: address}
	client, err := Dial(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// goroutines that run code of gRPC or of this package, besides those of tests.
func goroutines() (running []string) {
	text := make([]byte, 1<<20)
	for _, one := range strings.Split(string(text[:runtime.Stack(text, true)]), "\n\n") {
		if strings.Contains(one, "google.golang.org/grpc") || strings.Contains(one, "modelkeep.dev/go.") {
			if !strings.Contains(one, "testing.tRunner") && !strings.Contains(one, "created by testing.") {
				running = append(running, one)
			}
		}
	}
	return running
}

// settles waits until there are no more goroutines than a number.
func settles(t *testing.T, most int) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for len(goroutines()) > most {
		if time.Now().After(deadline) {
			t.Fatalf("more than %d goroutines:\n%s", most, strings.Join(goroutines(), "\n\n"))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// authority vouches for certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	self := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true,
		NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	made := authority{self, key}
	made.certificate = made.sign(t, self, key)
	return made
}

func (by authority) sign(t *testing.T, asked *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	text, err := x509.CreateCertificate(rand.Reader, asked, by.certificate, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := x509.ParseCertificate(text)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// put a certificate of this name, for localhost, its key and the authority into a folder, in place of what is there.
func (by authority) put(t *testing.T, folder, name string) TLSFiles {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signed := by.sign(t, &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}, key)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := TLSFiles{CA: filepath.Join(folder, "ca.pem"), Cert: filepath.Join(folder, "pair.pem"), ServerName: "localhost"}
	pair := append(pemOf("CERTIFICATE", signed.Raw), pemOf("PRIVATE KEY", secret)...)
	replace(t, files.CA, pemOf("CERTIFICATE", by.certificate.Raw))
	replace(t, files.Cert, pair)
	return files
}

func pemOf(kind string, content []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content})
}

func replace(t *testing.T, path string, content []byte) {
	t.Helper()
	write(t, path+".new", string(content))
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// secured is how a service speaks TLS and wants certificates of the same authority.
func (by authority) secured(t *testing.T) grpc.ServerOption {
	t.Helper()
	files := by.put(t, t.TempDir(), "server")
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Cert)
	if err != nil {
		t.Fatal(err)
	}
	callers := x509.NewCertPool()
	callers.AddCert(by.certificate)
	return grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: callers,
		ClientAuth: tls.RequireAndVerifyClientCert}))
}

// callerOf is the name in the certificate of who makes a call.
func callerOf(ctx context.Context) string {
	from, _ := peer.FromContext(ctx)
	return from.AuthInfo.(credentials.TLSInfo).State.PeerCertificates[0].Subject.CommonName
}
