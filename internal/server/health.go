package server

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

// health is grpc.health.v1 from a function: what /readyz says, for the whole server and for its one service.
type health struct {
	grpc_health_v1.UnimplementedHealthServer
	ready    func() Readiness
	every    time.Duration // how often Watch looks
	stopping chan struct{}
	once     sync.Once
	watches  atomic.Int32
}

func newHealth(ready func() Readiness) *health {
	return &health{ready: ready, every: time.Second, stopping: make(chan struct{})}
}

// stop ends all Watch streams, which would hold up a shutdown.
func (h *health) stop() { h.once.Do(func() { close(h.stopping) }) }

func (h *health) status(service string) grpc_health_v1.HealthCheckResponse_ServingStatus {
	if service != "" && service != brokerv1.CredentialBrokerService_ServiceDesc.ServiceName {
		return grpc_health_v1.HealthCheckResponse_SERVICE_UNKNOWN
	}
	if !h.ready().Ready {
		return grpc_health_v1.HealthCheckResponse_NOT_SERVING
	}
	return grpc_health_v1.HealthCheckResponse_SERVING
}

// Check implements grpc_health_v1.HealthServer.
func (h *health) Check(_ context.Context, in *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	s := h.status(in.GetService())
	if s == grpc_health_v1.HealthCheckResponse_SERVICE_UNKNOWN {
		return nil, status.Error(codes.NotFound, "unknown service")
	}
	return &grpc_health_v1.HealthCheckResponse{Status: s}, nil
}

// Watch implements grpc_health_v1.HealthServer.
func (h *health) Watch(in *grpc_health_v1.HealthCheckRequest, stream grpc.ServerStreamingServer[grpc_health_v1.HealthCheckResponse]) error {
	if h.watches.Add(1) > maxWatches {
		h.watches.Add(-1)
		return status.Error(codes.ResourceExhausted, "too many watches; ask by Check")
	}
	defer h.watches.Add(-1)
	tick := time.NewTicker(h.every)
	defer tick.Stop()
	last := grpc_health_v1.HealthCheckResponse_UNKNOWN
	for {
		if now := h.status(in.GetService()); now != last {
			if err := stream.Send(&grpc_health_v1.HealthCheckResponse{Status: now}); err != nil {
				return err
			}
			last = now
		}
		select {
		case <-tick.C:
		case <-h.stopping:
			return status.Error(codes.Unavailable, "shutting down")
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		}
	}
}
