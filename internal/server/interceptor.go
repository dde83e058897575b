package server

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/exchange"
)

// errorDomain is the domain of every google.rpc.ErrorInfo.
const errorDomain = "credbroker"

// interceptors stand before every gRPC method: request ID, time limit, panics, and errors by the table.
type interceptors struct {
	opts Options
	// note, if set, is told how each call ended.
	note func(ctx context.Context, method string, err error)
}

type correlationKey struct{}

// correlationOf is what the interceptor found in the call's metadata.
func correlationOf(ctx context.Context) exchange.Correlation {
	if a := admittedOf(ctx); a != nil {
		return a.corr
	}
	corr, _ := ctx.Value(correlationKey{}).(*exchange.Correlation)
	if corr == nil {
		return exchange.Correlation{}
	}
	return *corr
}

func (i interceptors) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	if a := admittedOf(ctx); a != nil { // its time is limited already
		if a.refused {
			return nil, errTooManyStreams
		}
		defer a.end()
	}
	ctx, corr := correlate(ctx)
	_ = grpc.SetHeader(ctx, metadata.MD{metaRequestID: {corr.RequestID}}) // it only fails after an answer was sent
	defer func() {
		if p := recover(); p != nil {
			logPanic(i.opts.Log, corr.RequestID, p)
			resp, err = nil, errPanic
		}
		err = i.end(ctx, info.FullMethod, corr.RequestID, err)
	}()
	return handle(ctx, req)
}

// stream stands before health's Watch, which lasts as long as its caller likes, and reflection.
func (i interceptors) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	if a := admittedOf(ss.Context()); a != nil && a.refused {
		return errTooManyStreams
	}
	ctx, corr := correlate(ss.Context())
	_ = ss.SetHeader(metadata.MD{metaRequestID: {corr.RequestID}})
	defer func() {
		if p := recover(); p != nil {
			logPanic(i.opts.Log, corr.RequestID, p)
			err = errPanic
		}
		err = i.end(ctx, info.FullMethod, corr.RequestID, err)
	}()
	return handle(srv, ss)
}

func correlate(ctx context.Context) (context.Context, *exchange.Correlation) {
	corr := correlationOfGRPC(ctx)
	if a := admittedOf(ctx); a != nil {
		a.corr = corr
		return ctx, &a.corr
	}
	return context.WithValue(ctx, correlationKey{}, &corr), &corr
}

// end turns an error into what the caller sees. Health and reflection speak statuses of their own.
func (i interceptors) end(ctx context.Context, method, requestID string, err error) error {
	if i.note != nil {
		i.note(ctx, method, err)
	}
	if err == nil || strings.HasPrefix(method, "/grpc.") && !errors.Is(err, errPanic) {
		return err
	}
	if errors.Is(err, broker.ErrInvalidRequest) { // the pipeline logs its own refusals
		i.opts.Log.Info("refused", "request_id", requestID, "method", method, "cause", err.Error())
	}
	return statusOf(err, requestID)
}

// statusOf is the error's gRPC status with its details. Everything in it but the request ID comes from the table.
func statusOf(err error, requestID string) error {
	p := publicOf(err)
	details := []protoadapt.MessageV1{
		&errdetails.ErrorInfo{Reason: strings.ToUpper(p.code), Domain: errorDomain},
		&errdetails.RequestInfo{RequestId: requestID},
	}
	if p.retryable() {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(p.retryAfter)})
	}
	s, detailErr := status.New(p.grpc, p.message).WithDetails(details...)
	if detailErr != nil {
		return status.Error(p.grpc, p.message)
	}
	return s.Err()
}
