package modelkeep

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	serverv1 "modelkeep.dev/go/modelkeep/server/v1"
)

const errorDomain = ".modelkeep.dev"

// Reason is why something failed, as a word: "UNKNOWN_MODEL". It is an error, so that errors.Is(err, UnknownModel)
// asks for it.
type Reason string

// Error is the word itself.
func (reason Reason) Error() string { return string(reason) }

// Violation is a bad field of a request.
type Violation struct {
	Field       string // its path as in the .proto: "model.name"
	Description string // what is wrong with it
}

// Error is a failed call, or why a job failed. Calls of a [Client] fail with it; errors.As finds it.
type Error struct {
	// Reason is empty where no service of the suite said one: where none answers, for example.
	Reason Reason
	// Code is the status code, by which an error of an unknown reason is treated.
	Code codes.Code
	// Message says what is wrong, in words, without secrets.
	Message string
	// Metadata are facts for a program; the comments of ErrorReason name the keys.
	Metadata map[string]string
	// Violations are the bad fields, where the request was no good.
	Violations []Violation
	// RetryDelay is after how long a new try makes sense; 0: not said.
	RetryDelay time.Duration

	status *status.Status
}

// Error is what is wrong and what to do about it.
func (failed *Error) Error() string {
	remedy := failed.Remedy()
	if remedy == "" || strings.Contains(failed.Message, remedy) {
		return failed.Message
	}
	end := "."
	if strings.HasSuffix(failed.Message, ".") {
		end = ""
	}
	return failed.Message + end + " " + remedy
}

// Remedy says what to do about it, as a sentence; empty if nothing is known.
func (failed *Error) Remedy() string { return failed.Metadata["remedy"] }

// Is says whether the target is the error's reason.
func (failed *Error) Is(target error) bool {
	reason, is := target.(Reason)
	return is && reason == failed.Reason && reason != ""
}

// GRPCStatus is the status as it came, for status.Code and status.FromError.
func (failed *Error) GRPCStatus() *status.Status {
	if failed.status != nil {
		return failed.status
	}
	return status.New(failed.Code, failed.Message)
}

// FromJob is the error that a job's error stands for; nil for none.
func FromJob(said *serverv1.JobError) error {
	if said == nil {
		return nil
	}
	failed := &Error{Reason: Reason(said.GetReason()), Message: said.GetMessage(), Metadata: said.GetMetadata()}
	// The name of a code, in quotes, is how JSON has it.
	if err := failed.Code.UnmarshalJSON([]byte(strconv.Quote(said.GetCode()))); err != nil {
		failed.Code = codes.Unknown
	}
	return failed
}

// decode makes an Error of what a call failed with.
func decode(err error, service Service, from address) error {
	var already *Error
	if err == nil || errors.As(err, &already) {
		return err
	}
	said, is := status.FromError(err)
	if !is {
		return err
	}
	failed := &Error{Code: said.Code(), Message: said.Message(), status: said}
	for _, detail := range said.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if strings.HasSuffix(detail.GetDomain(), errorDomain) {
				failed.Reason = Reason(detail.GetReason())
				failed.Metadata = detail.GetMetadata()
			}
		case *errdetails.BadRequest:
			for _, field := range detail.GetFieldViolations() {
				failed.Violations = append(failed.Violations, Violation{field.GetField(), field.GetDescription()})
			}
		case *errdetails.RetryInfo:
			failed.RetryDelay = detail.GetRetryDelay().AsDuration()
		}
	}
	if failed.Reason == "" && failed.Code == codes.Unavailable {
		unreachable(failed, service, from)
	}
	return failed
}

// unreachable says which service did not answer where, and what to do.
func unreachable(failed *Error, service Service, from address) {
	if from.target == "" {
		failed.Message = fmt.Sprintf("There is no %s service to call: %s.", service, from.origin)
	} else {
		failed.Message = fmt.Sprintf("The %s service does not answer at %s (address from %s; %s).", service,
			from.target, from.origin, failed.Message)
	}
	variable := "MODELKEEP_CLIENT_" + strings.ToUpper(string(service)) + "_ADDRESS"
	remedy := troubleOfTLS(failed.Message, from.tls)
	if remedy == "" {
		remedy = "Start the suite with `modelkeep up`, or say where it is with " + variable + "=HOST:PORT."
	}
	failed.Metadata = map[string]string{"remedy": remedy}
}

// troubleOfTLS is what helps where TLS has to do with a connection that failed, by what gRPC says of it; else it is empty.
func troubleOfTLS(said string, caller *callerTLS) string {
	// A connection that was there, and is lost in the middle of a call, is nothing of TLS.
	closed := !strings.Contains(said, "reading from server") &&
		slices.ContainsFunc([]string{"EOF", "reset by peer", "broken pipe", "server preface"}, func(sign string) bool {
			return strings.Contains(said, sign)
		})
	switch {
	case strings.Contains(said, "certificate is valid for"):
		return "Call it by a host that its certificate names, or name that by Config.TLS.ServerName."
	case strings.Contains(said, "failed to verify certificate"):
		return "Have that service renew its certificate, or name its authorities by Config.TLS.CA or MODELKEEP_CA_FILE."
	case strings.Contains(said, "first record does not look like a TLS handshake"):
		return "Leave out Config.TLS and MODELKEEP_CA_FILE, or have the service speak TLS."
	case !closed && !strings.Contains(said, "certificate required"):
		return ""
	case caller == nil:
		return "If it speaks TLS, name its authorities by Config.TLS.CA or MODELKEEP_CA_FILE."
	case caller.files.Cert == "":
		return "If it wants a certificate, show one by Config.TLS, or MODELKEEP_CERT_FILE and MODELKEEP_KEY_FILE."
	}
	return "Perhaps it does not take this certificate, or it speaks no TLS."
}

func decodeUnary(service Service, from address) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, request, answer any, connection *grpc.ClientConn,
		invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		return decode(invoke(ctx, method, request, answer, connection, options...), service, from)
	}
}

func decodeStream(service Service, from address) grpc.StreamClientInterceptor {
	return func(ctx context.Context, description *grpc.StreamDesc, connection *grpc.ClientConn, method string,
		open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
		stream, err := open(ctx, description, connection, method, options...)
		if err != nil {
			return nil, decode(err, service, from)
		}
		return decodedStream{stream, service, from}, nil
	}
}

type decodedStream struct {
	grpc.ClientStream
	service Service
	from    address
}

func (stream decodedStream) RecvMsg(message any) error {
	return decode(stream.ClientStream.RecvMsg(message), stream.service, stream.from)
}
