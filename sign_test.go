package credbroker

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/s3"
	"github.com/credbroker/credbroker/internal/server"
	"github.com/credbroker/credbroker/prove"
)

// signingPipeline signs behind a broker's real listeners.
type signingPipeline struct {
	fakePipeline
	asked broker.SignRequest
	fail  error
	none  bool
}

func (f *signingPipeline) Sign(_ context.Context, req broker.SignRequest) (broker.SignedRequests, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = req
	out := broker.SignedRequests{AccessKeyID: "KEY", Expires: wireExpires, Role: req.Role}
	if !f.none {
		out.Requests = []s3.Signed{{
			Method: "PUT", URL: "https://minio:9000/b-1/a%20b?x=y", Host: "minio:9000", Path: "/b-1/a%20b", Query: "x=y", Headers: map[string]string{"authorization": "AWS4", "x-amz-date": "now"},
		}}
	}
	return out, f.fail
}

func TestBothListenersSign(t *testing.T) {
	f := &signingPipeline{}
	request := S3Request{
		Method: "PUT", Bucket: "b-1", Key: "a b/ü", Query: map[string]string{"x": ""}, Headers: map[string]string{"content-type": "c"}, PayloadHash: "h", VirtualHost: true, Endpoint: "https://e",
	}
	item := broker.SignItem{
		Input:       s3.Input{Method: "PUT", Bucket: "b-1", Key: "a b/ü", Query: map[string]string{"x": ""}, Headers: map[string]string{"content-type": "c"}, PayloadHash: "h"},
		VirtualHost: true, Endpoint: "https://e",
	}
	for _, url := range listeners(t, f, server.TLSFiles{}) {
		c := open(t, url, WithActor(prove.Token("the.actors")))
		for _, presign := range []bool{false, true} {
			ask := c.SignRequest
			if presign {
				ask = c.PresignURL
			}
			got, err := ask(t.Context(), "reports", 5*time.Second, request)
			if err != nil || got.AccessKeyID != "KEY" || !got.Expires.Equal(wireExpires) || got.Role != "reports" || got.RequestID == "" || got.RequestID != f.asked.Correlation.RequestID {
				t.Fatalf("%s: %+v, %v", url, got, err)
			}
			if a := f.asked; a.Presign != presign || a.Window != 5*time.Second || a.Proof.Kind != attest.KindJWT || a.Actor == nil || a.Actor.Data.Reveal() != "the.actors" || !reflect.DeepEqual(a.Items, []broker.SignItem{item}) {
				t.Errorf("%s sent %+v", url, a)
			}
			req, _ := http.NewRequest(http.MethodGet, "http://elsewhere/", nil)
			if err := got.Requests[0].Apply(req); err != nil || req.Method != http.MethodPut || req.URL.String() != "https://minio:9000/b-1/a%20b?x=y" || req.Host != "minio:9000" || req.Header.Get("Authorization") != "AWS4" {
				t.Errorf("%s: %+v, %v", url, req, err)
			}
		}
		// 60 s are the broker's default.
		if _, err := c.SignRequest(t.Context(), "reports", 0, request); err != nil || f.asked.Window != 0 {
			t.Errorf("%s: %s, %v", url, f.asked.Window, err)
		}
		f.fail = &s3.InputError{Reason: s3.ErrInvalid, Detail: "planted"}
		var refusal *Error
		if _, err := c.SignRequest(t.Context(), "reports", 0, request); !errors.As(err, &refusal) || refusal.Code != CodeInvalidS3Request || refusal.Retryable {
			t.Errorf("%s: %v", url, err)
		}
		f.fail, f.none = nil, true
		if got, err := c.PresignURL(t.Context(), "reports", 0, request); err == nil {
			t.Errorf("%s: an answer without signatures: %+v", url, got)
		}
		f.none = false
		for name, call := range map[string]func() (Signatures, error){
			"no role":        func() (Signatures, error) { return c.SignRequest(t.Context(), "", 0, request) },
			"half a second":  func() (Signatures, error) { return c.SignRequest(t.Context(), "r", time.Second/2, request) },
			"a key of bytes": func() (Signatures, error) { return c.SignRequest(t.Context(), "r", 0, S3Request{Key: "\xff"}) },
		} {
			if got, err := call(); err == nil {
				t.Errorf("%s, %s: %+v", url, name, got)
			}
		}
		_ = c.Close()
		if _, err := c.SignRequest(t.Context(), "r", 0, request); !errors.Is(err, ErrClosed) {
			t.Errorf("%s, closed: %v", url, err)
		}
	}
}
