package modelkeep

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	downloadv1 "modelkeep.dev/go/modelkeep/download/v1"
	installv1 "modelkeep.dev/go/modelkeep/install/v1"
	serverv1 "modelkeep.dev/go/modelkeep/server/v1"
)

// Source is where a model comes from, as a person writes it: a path on this host, an http or https address, owner/name
// of Hugging Face, a model of Civitai. See RemoteSource for what else.
func Source(text string) *installv1.InstallSource {
	if _, err := os.Stat(text); err == nil && !strings.Contains(text, "://") {
		if whole, err := filepath.Abs(text); err == nil {
			return &installv1.InstallSource{Source: &installv1.InstallSource_LocalPath{LocalPath: whole}}
		}
	}
	remote := &downloadv1.RemoteSource{Source: text}
	return &installv1.InstallSource{Source: &installv1.InstallSource_Remote{Remote: remote}}
}

// WaitInstall waits until an install has ended; a paused one has not. It tells each change and its progress to follow,
// which may be nil. The error is the call's, or the job's: its Reason says why it failed, or that it was cancelled.
func (client *Client) WaitInstall(
	ctx context.Context, id int64, follow func(*installv1.Install),
) (*installv1.Install, error) {
	wait := waiting[*installv1.Install]{id: id, follow: follow}
	request := &installv1.WatchInstallsRequest{Ids: []int64{id}, UntilEnded: true}
	for frame, err := range client.WatchInstalls(ctx, request) {
		if err != nil {
			return wait.job, err
		}
		for _, event := range frame.Events {
			wait.take(event.GetPut(), event.GetProgress())
		}
	}
	return wait.outcome(wait.job.GetState() == installv1.InstallState_INSTALL_STATE_CANCELLED)
}

// WaitDownload is the same for a download.
func (client *Client) WaitDownload(
	ctx context.Context, id int64, follow func(*downloadv1.Download),
) (*downloadv1.Download, error) {
	wait := waiting[*downloadv1.Download]{id: id, follow: follow}
	request := &downloadv1.WatchDownloadsRequest{Ids: []int64{id}, AllQueues: true, UntilEnded: true}
	for frame, err := range client.WatchDownloads(ctx, request) {
		if err != nil {
			return wait.job, err
		}
		for _, event := range frame.Events {
			wait.take(event.GetPut(), event.GetProgress())
		}
	}
	return wait.outcome(wait.job.GetState() == downloadv1.DownloadState_DOWNLOAD_STATE_CANCELLED)
}

// job is what installs and downloads have in common.
type job interface {
	comparable
	proto.Message
	GetEnded() bool
	GetRevision() int64
	GetProgress() *serverv1.Progress
	GetError() *serverv1.JobError
}

// waiting is a job as it was told last.
type waiting[J job] struct {
	id     int64
	follow func(J)
	job    J
}

// take what an event says: the job, or how far it is. Progress of before its last change is out of date.
func (wait *waiting[J]) take(put J, progress *serverv1.JobProgress) {
	var none J
	switch {
	case put != none:
		wait.job = put
	case progress != nil && wait.job != none && progress.GetRevision() >= wait.job.GetRevision():
		wait.job = proto.CloneOf(wait.job)
		wait.setProgress(progress.GetProgress())
	default:
		return
	}
	if wait.follow != nil {
		wait.follow(wait.job)
	}
}

func (wait *waiting[J]) setProgress(progress *serverv1.Progress) {
	message := wait.job.ProtoReflect()
	field := message.Descriptor().Fields().ByName("progress")
	message.Set(field, protoreflect.ValueOfMessage(progress.ProtoReflect()))
}

// outcome of a job whose watch has ended.
func (wait *waiting[J]) outcome(cancelled bool) (J, error) {
	var none J
	switch {
	case wait.job == none || !wait.job.GetEnded():
		return wait.job, &Error{Reason: UnknownJob, Code: codes.NotFound,
			Message: fmt.Sprintf("The job %d is not there any more: it was never made, or has been pruned.", wait.id)}
	case cancelled:
		return wait.job, &Error{Reason: Cancelled, Code: codes.Canceled,
			Message: fmt.Sprintf("The job %d was cancelled.", wait.id)}
	}
	return wait.job, FromJob(wait.job.GetError())
}
