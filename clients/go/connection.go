package modelkeep

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	serverv1 "modelkeep.dev/go/modelkeep/server/v1"
)

// connection leads to a service. Once the caller's certificate was replaced, new calls go by another connection of
// gRPC's; the one before is closed when its last call has ended.
type connection struct {
	open func(credentials.TransportCredentials) (*grpc.ClientConn, error)
	// tls is nil where the credentials stay what they are.
	tls *callerTLS
	// folder goes before the names of the methods that all services have, where one gateway stands before all.
	folder string

	lock    sync.Mutex
	shown   credentials.TransportCredentials
	current *counted
	all     map[*counted]struct{}
	closed  bool
}

// counted is a connection of gRPC's, with how many calls are under way on it.
type counted struct {
	*grpc.ClientConn
	calls int
}

var errClosed = errors.New("this client is closed")

func newConnection(
	found address, shown credentials.TransportCredentials,
	open func(credentials.TransportCredentials) (*grpc.ClientConn, error),
) (*connection, error) {
	made := &connection{open: open, tls: found.tls, folder: found.folder, all: map[*counted]struct{}{}}
	if found.tls != nil {
		shown = found.tls.current()
	}
	return made, made.change(shown)
}

// change what new calls go by. The lock is held, or nobody else has the connection yet.
func (connection *connection) change(shown credentials.TransportCredentials) error {
	opened, err := connection.open(shown)
	if err != nil {
		return err
	}
	before := connection.current
	connection.shown, connection.current = shown, &counted{ClientConn: opened}
	connection.all[connection.current] = struct{}{}
	if before != nil && before.calls == 0 {
		connection.drop(before)
	}
	return nil
}

func (connection *connection) drop(old *counted) {
	delete(connection.all, old)
	// Not here: it may be the end of a call that tells that this was the last one.
	go old.Close()
}

// take a connection of gRPC's for a call; release says that the call has ended, as often as it likes.
func (connection *connection) take() (taken *counted, release func(), err error) {
	connection.lock.Lock()
	defer connection.lock.Unlock()
	if connection.closed {
		return nil, nil, errClosed
	}
	if connection.tls != nil {
		if shown := connection.tls.current(); shown != connection.shown {
			if err := connection.change(shown); err != nil {
				return nil, nil, err
			}
		}
	}
	taken = connection.current
	taken.calls++
	return taken, sync.OnceFunc(func() {
		connection.lock.Lock()
		defer connection.lock.Unlock()
		taken.calls--
		if taken.calls == 0 && taken != connection.current && !connection.closed {
			connection.drop(taken)
		}
	}), nil
}

// Invoke makes a unary call.
func (connection *connection) Invoke(
	ctx context.Context, method string, request, answer any, options ...grpc.CallOption,
) error {
	taken, release, err := connection.take()
	if err != nil {
		return err
	}
	defer release()
	return taken.Invoke(ctx, connection.placed(method), request, answer, options...)
}

// NewStream begins a streaming call.
func (connection *connection) NewStream(
	ctx context.Context, description *grpc.StreamDesc, method string, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	taken, release, err := connection.take()
	if err != nil {
		return nil, err
	}
	ended := grpc.OnFinish(func(error) { release() })
	stream, err := taken.NewStream(ctx, description, connection.placed(method), append(slices.Clip(options), ended)...)
	if err != nil {
		release()
	}
	return stream, err
}

// placed is the name of a method as it is called there.
func (connection *connection) placed(method string) string {
	if connection.folder != "" && strings.HasPrefix(method, "/"+serverv1.ServerService_ServiceDesc.ServiceName+"/") {
		return "/" + connection.folder + method
	}
	return method
}

func (connection *connection) close() error {
	connection.lock.Lock()
	defer connection.lock.Unlock()
	var failed []error
	if !connection.closed {
		connection.closed = true
		for open := range connection.all {
			failed = append(failed, open.Close())
		}
	}
	return errors.Join(failed...)
}
