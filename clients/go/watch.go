package modelkeep

import (
	"context"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	downloadv1 "modelkeep.dev/go/modelkeep/download/v1"
	installv1 "modelkeep.dev/go/modelkeep/install/v1"
	loaderv1 "modelkeep.dev/go/modelkeep/loader/v1"
	recordv1 "modelkeep.dev/go/modelkeep/record/v1"
	serverv1 "modelkeep.dev/go/modelkeep/server/v1"
)

const (
	// A stream is opened anew after this time: no call is without a deadline.
	streamDeadline = time.Hour
	// The longest time without a frame that is asked for.
	bookmarkInterval = 15 * time.Second
	// After this long without any frame, bookmarks included, the connection is taken for dead.
	silence = time.Minute
	// How long a service may be away before the first frame: a wrong address should show soon.
	patienceAtStart = time.Second

	firstDelay   = 150 * time.Millisecond
	longestDelay = 5 * time.Second
)

// Frame is some events of a watch at once; without events it is a bookmark. modelkeep.server.v1.WatchPhase says what
// every watch guarantees.
type Frame[E any] struct {
	// Events are the changes, in order.
	Events []E
	// Snapshot says whether they are part of the snapshot of what exists.
	Snapshot bool
	// SnapshotComplete is true on the last frame of a snapshot: what it did not name does not exist.
	SnapshotComplete bool
	// ResumeToken is the place to go on from after this frame, also in another process.
	ResumeToken string
	// Restarted is true on the first frame after history was lost: a new snapshot begins; forget what it does not
	// name.
	Restarted bool
}

// WatchModels is a snapshot of the records, then every change. It goes on by itself across lost connections and
// restarts of the service, until the context or the loop ends. An error is the last that it yields.
func (client *Client) WatchModels(
	ctx context.Context, request *recordv1.WatchModelsRequest,
) iter.Seq2[*Frame[*recordv1.ModelEvent], error] {
	return watch[*recordv1.ModelEvent](ctx, client.patience, request, client.Records.WatchModels)
}

// WatchInstalls is the same for installs; with UntilEnded it ends with them.
func (client *Client) WatchInstalls(
	ctx context.Context, request *installv1.WatchInstallsRequest,
) iter.Seq2[*Frame[*installv1.InstallEvent], error] {
	return watch[*installv1.InstallEvent](ctx, client.patience, request, client.Installs.WatchInstalls)
}

// WatchDownloads is the same for downloads; with UntilEnded it ends with them.
func (client *Client) WatchDownloads(
	ctx context.Context, request *downloadv1.WatchDownloadsRequest,
) iter.Seq2[*Frame[*downloadv1.DownloadEvent], error] {
	return watch[*downloadv1.DownloadEvent](ctx, client.patience, request, client.Downloads.WatchDownloads)
}

// WatchLeases is the same for leases.
func (client *Client) WatchLeases(
	ctx context.Context, request *loaderv1.WatchLeasesRequest,
) iter.Seq2[*Frame[*loaderv1.LeaseEvent], error] {
	return watch[*loaderv1.LeaseEvent](ctx, client.patience, request, client.Loader.WatchLeases)
}

// WatchResidents is the same for what the loader has in memory.
func (client *Client) WatchResidents(
	ctx context.Context, request *loaderv1.WatchResidentsRequest,
) iter.Seq2[*Frame[*loaderv1.ResidentEvent], error] {
	return watch[*loaderv1.ResidentEvent](ctx, client.patience, request, client.Loader.WatchResidents)
}

// answerOf is what the answers of all watches have in common.
type answerOf[A, E any] interface {
	*A
	GetPhase() serverv1.WatchPhase
	GetSnapshotComplete() bool
	GetResumeToken() string
	GetEvents() []E
}

type opener[Q, A any] func(context.Context, Q, ...grpc.CallOption) (grpc.ServerStreamingClient[A], error)

func watch[E any, Q proto.Message, A any, P answerOf[A, E]](
	ctx context.Context, patience time.Duration, asked Q, open opener[Q, A],
) iter.Seq2[*Frame[E], error] {
	return func(yield func(*Frame[E], error) bool) {
		request := proto.CloneOf(asked)
		if !request.ProtoReflect().IsValid() { // nil asks for everything, as in a call
			request = request.ProtoReflect().New().Interface().(Q)
		}
		fields := fieldsOf{request.ProtoReflect()}
		fields.set("bookmark_interval", protoreflect.ValueOfMessage(durationpb.New(bookmarkInterval).ProtoReflect()))
		away := absence{patience: min(patience, patienceAtStart)}
		restarted := false
		for {
			err := receive(ctx, request, open, func(message *A) bool {
				answer := P(message)
				away = absence{patience: patience}
				if token := answer.GetResumeToken(); token != "" {
					fields.set("resume_token", protoreflect.ValueOfString(token))
				}
				frame := &Frame[E]{
					Events:           answer.GetEvents(),
					Snapshot:         answer.GetPhase() == serverv1.WatchPhase_WATCH_PHASE_SNAPSHOT,
					SnapshotComplete: answer.GetSnapshotComplete(),
					ResumeToken:      fields.text("resume_token"),
					Restarted:        restarted,
				}
				restarted = false
				return yield(frame, nil)
			})
			switch {
			case errors.Is(err, errLeft):
				return
			case ctx.Err() != nil:
				yield(nil, ctx.Err())
				return
			case errors.Is(err, io.EOF) && fields.flag("until_ended"):
				return
			case fields.text("resume_token") != "" &&
				(errors.Is(err, ResumeTokenExpired) || errors.Is(err, ResumeTokenForeign)):
				fields.set("resume_token", protoreflect.ValueOfString(""))
				fields.set("skip_snapshot", protoreflect.ValueOfBool(false))
				restarted = true
				continue
			}
			var failed *Error
			if errors.As(err, &failed) && failed.Metadata["resume_token"] != "" {
				fields.set("resume_token", protoreflect.ValueOfString(failed.Metadata["resume_token"]))
			}
			if !passes(err) || !away.wait(ctx, err) {
				if ctx.Err() != nil {
					err = ctx.Err()
				}
				yield(nil, err)
				return
			}
		}
	}
}

// errLeft says that the one who watches has left.
var errLeft = errors.New("left")

// receive opens a stream and gives its answers to a function, until that returns false; then the error is errLeft.
func receive[Q, A any](ctx context.Context, request Q, open opener[Q, A], take func(*A) bool) error {
	ctx, cancel := context.WithTimeout(ctx, streamDeadline)
	defer cancel()
	quiet := time.AfterFunc(silence, cancel)
	defer quiet.Stop()
	stream, err := open(ctx, request)
	for err == nil {
		var answer *A
		if answer, err = stream.Recv(); err == nil {
			quiet.Stop()
			if !take(answer) {
				return errLeft
			}
			quiet.Reset(silence)
		}
	}
	return err
}

// passes says whether a stream that ended so is opened again: the service is away or busy, the reader was too slow, or
// the stream's own time was over.
func passes(err error) bool {
	if errors.Is(err, io.EOF) || errors.Is(err, WatcherTooSlow) || errors.Is(err, ServerBusy) {
		return true
	}
	var failed *Error
	if !errors.As(err, &failed) {
		return false
	}
	switch failed.Code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return true // Canceled after a silence: that the caller has cancelled was seen before
	}
	return false
}

// absence counts for how long a service has not answered.
type absence struct {
	patience time.Duration
	since    time.Time
	failures int
}

// wait until the next try; false if patience is over, or the context.
func (away *absence) wait(ctx context.Context, err error) bool {
	if away.since.IsZero() {
		away.since = time.Now()
	}
	if time.Since(away.since) > away.patience {
		return false
	}
	pause := min(firstDelay<<min(away.failures, 10), longestDelay)
	pause = time.Duration(float64(pause) * (0.5 + rand.Float64()/2))
	var failed *Error
	if errors.As(err, &failed) {
		pause = max(pause, failed.RetryDelay)
	}
	away.failures++
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pause):
		return true
	}
}

// fieldsOf are the fields of a request by name, since every watch has its own message for the same fields.
type fieldsOf struct{ message protoreflect.Message }

func (fields fieldsOf) named(name protoreflect.Name) protoreflect.FieldDescriptor {
	return fields.message.Descriptor().Fields().ByName(name)
}

func (fields fieldsOf) set(name protoreflect.Name, value protoreflect.Value) {
	fields.message.Set(fields.named(name), value)
}

func (fields fieldsOf) text(name protoreflect.Name) string {
	return fields.message.Get(fields.named(name)).String()
}

func (fields fieldsOf) flag(name protoreflect.Name) bool {
	field := fields.named(name)
	return field != nil && fields.message.Get(field).Bool()
}
