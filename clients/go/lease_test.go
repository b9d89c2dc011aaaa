package modelkeep

import (
	"context"
	"errors"
	"net"
	"testing"

	"google.golang.org/grpc"

	loaderv1 "modelkeep.dev/go/modelkeep/loader/v1"
	serverv1 "modelkeep.dev/go/modelkeep/server/v1"
)

// lending is a LoaderService that grants one lease, and takes it away when it is told to.
type lending struct {
	loaderv1.UnimplementedLoaderServiceServer
	take     chan struct{}
	released chan string
}

func (loader lending) HoldModel(
	_ *loaderv1.HoldModelRequest, stream grpc.ServerStreamingServer[loaderv1.HoldModelResponse],
) error {
	grant := &loaderv1.Grant{Lease: &loaderv1.Lease{Id: "lease"}, LeaseSecret: []byte("secret")}
	granted := &loaderv1.HoldModelResponse_Granted{Granted: grant}
	if err := stream.Send(&loaderv1.HoldModelResponse{Event: granted}); err != nil {
		return err
	}
	select {
	case <-stream.Context().Done():
	case <-loader.take:
		why := &serverv1.JobError{Code: "ABORTED", Reason: string(LeaseRevoked), Message: "It was taken."}
		lost := &loaderv1.HoldModelResponse_Lost{Lost: &loaderv1.HoldLost{Error: why}}
		if err := stream.Send(&loaderv1.HoldModelResponse{Event: lost}); err != nil {
			return err
		}
		<-stream.Context().Done()
	}
	return nil
}

func (loader lending) ReleaseLease(
	_ context.Context, request *loaderv1.ReleaseLeaseRequest,
) (*loaderv1.ReleaseLeaseResponse, error) {
	loader.released <- request.GetLeaseId() + " " + string(request.GetLeaseSecret())
	return &loaderv1.ReleaseLeaseResponse{}, nil
}

func TestALeaseLeavesNothingBehindHoweverItEnds(t *testing.T) {
	loader := lending{take: make(chan struct{}), released: make(chan string, 1)}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	loaderv1.RegisterLoaderServiceServer(server, loader)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	client, err := Dial(Config{DataDir: t.TempDir(), Addresses: map[Service]string{Loader: listener.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	_, _ = client.Loader.GetLease(t.Context(), &loaderv1.GetLeaseRequest{}) // the connection is there
	before := len(goroutines())
	hold := func(ctx context.Context) *Lease {
		t.Helper()
		lease, err := client.Hold(ctx, &loaderv1.HoldModelRequest{}, nil)
		if err != nil || lease.ID() != "lease" {
			t.Fatal(err)
		}
		return lease
	}

	lease := hold(t.Context())
	if err := errors.Join(lease.Close(), lease.Close()); err != nil || lease.Err() != nil {
		t.Error(err, lease.Err())
	}
	if said := <-loader.released; said != "lease secret" {
		t.Errorf("released: %s", said)
	}
	settles(t, before)

	lease = hold(t.Context())
	loader.take <- struct{}{}
	<-lease.Done()
	if !errors.Is(lease.Err(), LeaseRevoked) {
		t.Error(lease.Err())
	}
	settles(t, before)

	ctx, cancel := context.WithCancel(t.Context())
	lease = hold(ctx)
	cancel()
	<-lease.Done()
	if !errors.Is(lease.Err(), context.Canceled) {
		t.Error(lease.Err())
	}
	settles(t, before)
	if err := lease.Close(); err != nil || len(loader.released) != 0 {
		t.Error("a lease that has ended is released", err)
	}
}
