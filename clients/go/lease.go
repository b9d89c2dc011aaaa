package modelkeep

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	loaderv1 "modelkeep.dev/go/modelkeep/loader/v1"
)

// How long the release of a lease may take.
const releaseDeadline = 10 * time.Second

// Lease is held until it is closed, its context ends, or the loader takes it away.
//
// It lives by an open HoldModel stream, so that it ends with this process, also by kill -9. When the connection is
// lost or the loader restarts, the lease is taken up again by itself.
type Lease struct {
	client  *Client
	request *loaderv1.HoldModelRequest
	follow  func(*loaderv1.HoldModelResponse)
	cancel  context.CancelFunc
	done    chan struct{}

	lock    sync.Mutex
	grant   *loaderv1.Grant
	closing bool
	err     error
}

// Hold loads and locks components, all or none, and holds them. It returns once the lease is granted; ctx is for the
// life of the lease. What the stream says (progress, waits, that the lease is asked back) is told to follow, which may
// be nil.
func (client *Client) Hold(
	ctx context.Context, request *loaderv1.HoldModelRequest, follow func(*loaderv1.HoldModelResponse),
) (*Lease, error) {
	if follow == nil {
		follow = func(*loaderv1.HoldModelResponse) {}
	}
	ctx, cancel := context.WithCancel(ctx)
	lease := &Lease{client: client, request: proto.CloneOf(request), follow: follow, cancel: cancel,
		done: make(chan struct{})}
	granted := make(chan struct{})
	go lease.hold(ctx, sync.OnceFunc(func() { close(granted) }))
	select {
	case <-granted:
		return lease, nil
	case <-lease.done:
		return nil, lease.Err()
	}
}

// Grant is what the lease gives: manifests, and where the weights are. After a restart of the loader it is another
// one, with a new ticket.
func (lease *Lease) Grant() *loaderv1.Grant {
	lease.lock.Lock()
	defer lease.lock.Unlock()
	return lease.grant
}

// ID is the name of the lease.
func (lease *Lease) ID() string { return lease.Grant().GetLease().GetId() }

// Done is closed when the lease is no more; Err then says why.
func (lease *Lease) Done() <-chan struct{} { return lease.done }

// Err says why the lease is no more; nil while it is held, and after Close.
func (lease *Lease) Err() error {
	lease.lock.Lock()
	defer lease.lock.Unlock()
	return lease.err
}

// Close releases the lease. What is mapped stays valid in the process that maps it. Closing twice does no harm.
func (lease *Lease) Close() error {
	lease.lock.Lock()
	grant, over := lease.grant, lease.closing || lease.err != nil
	lease.closing = true
	lease.lock.Unlock()
	var err error
	if !over {
		ctx, cancel := context.WithTimeout(context.Background(), releaseDeadline)
		defer cancel()
		_, err = lease.client.Loader.ReleaseLease(ctx, &loaderv1.ReleaseLeaseRequest{
			LeaseId: grant.GetLease().GetId(), LeaseSecret: grant.GetLeaseSecret()})
	}
	lease.cancel()
	<-lease.done
	if errors.Is(err, UnknownLease) {
		return nil // it has ended meanwhile
	}
	return err
}

// hold keeps the stream open, and opens it again, until the lease is no more.
func (lease *Lease) hold(ctx context.Context, granted func()) {
	defer close(lease.done)
	defer lease.cancel() // of a lease that is lost the stream is still there, and nobody need close it
	away := absence{}
	for {
		lost, err := lease.listen(ctx, func() {
			away = absence{patience: lease.client.patience}
			granted()
		})
		switch {
		case lost || ctx.Err() != nil:
		case lease.Grant() == nil: // never granted: to try again is the caller's to decide
		case !passes(err) || !away.wait(ctx, err):
		default:
			continue
		}
		lease.ended(ctx, err)
		return
	}
}

// ended remembers why, unless the holder wished it.
func (lease *Lease) ended(ctx context.Context, err error) {
	lease.lock.Lock()
	defer lease.lock.Unlock()
	switch {
	case lease.closing:
	case ctx.Err() != nil:
		lease.err = ctx.Err()
	default:
		lease.err = err
	}
}

// listen to one stream until it ends; lost says that the lease has ended with it.
func (lease *Lease) listen(ctx context.Context, granted func()) (lost bool, err error) {
	stream, err := lease.client.Loader.HoldModel(ctx, lease.request)
	for err == nil {
		var said *loaderv1.HoldModelResponse
		if said, err = stream.Recv(); err != nil {
			break
		}
		lease.follow(said)
		if grant := said.GetGranted(); grant != nil {
			lease.lock.Lock()
			lease.grant = grant
			lease.lock.Unlock()
			// From now on the stream is there to take the same lease up again.
			lease.request.LeaseId, lease.request.LeaseSecret = grant.GetLease().GetId(), grant.GetLeaseSecret()
			granted()
		}
		if gone := said.GetLost(); gone != nil {
			return true, lostTo(gone)
		}
	}
	if errors.Is(err, io.EOF) && lease.Grant() == nil {
		err = io.ErrUnexpectedEOF
	}
	return false, err
}

// lostTo is why a lease is no more, also where the loader does not say it.
func lostTo(gone *loaderv1.HoldLost) error {
	if err := FromJob(gone.GetError()); err != nil {
		return err
	}
	return &Error{Reason: UnknownLease, Code: codes.NotFound, Message: "The lease has ended."}
}
