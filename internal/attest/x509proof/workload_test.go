package x509proof

import (
	"crypto/x509"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/brokertest"
)

// TestBundleOfAWorkloadAPI follows a trust domain's authorities as they change, and does without the API for a day.
func TestBundleOfAWorkloadAPI(t *testing.T) {
	var ahead atomic.Int64 // of this test's clock, which the stand-in's certificates go by
	clock := func() time.Time { return now.Add(time.Duration(ahead.Load())) }
	s := brokertest.NewSPIFFE(t, "prod.example", clock)
	open := func() *Verifier {
		v, err := New([]Authority{{Name: "prod", TrustDomain: "prod.example", WorkloadAPI: s.Address}}, Options{Now: clock})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	v := open()
	day := func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(72 * time.Hour) }
	verify := func(v *Verifier, svid *x509.Certificate) error {
		_, err := v.Verify(t.Context(), proof(svid))
		return err
	}
	svid := func() *x509.Certificate { return s.X509SVID(s.ID("/a"), day).Leaf }
	former := svid()
	for range 3 {
		if err := verify(v, former); err != nil {
			t.Fatal(err)
		}
		ahead.Add(int64(refreshGap)) // younger than refreshAfter all the time
	}
	if n := s.WorkloadCalls("FetchX509Bundles"); n != 1 {
		t.Errorf("asked %d times", n)
	}
	mustFail(t, verify(v, brokertest.NewSPIFFE(t, "prod.example", clock).X509SVID(s.ID("/a"), day).Leaf), attest.ErrRejected, "leads to no root")
	s.RotateX509()
	mustFail(t, verify(v, svid()), attest.ErrRejected, "leads to no root") // not asked again so soon
	ahead.Add(int64(refreshGap))
	if err := verify(v, svid()); err != nil {
		t.Errorf("after a rotation: %v", err)
	}
	for range 3 { // a stranger's certificates cost a question now and then
		mustFail(t, verify(v, brokertest.NewSPIFFE(t, "prod.example", clock).X509SVID(s.ID("/a"), day).Leaf), attest.ErrRejected, "leads to no root")
	}
	if n := s.WorkloadCalls("FetchX509Bundles"); n != 3 {
		t.Errorf("asked %d times, expected 3", n)
	}
	s.Forget()
	ahead.Add(int64(refreshAfter))
	mustFail(t, verify(v, former), attest.ErrRejected, "leads to no root")
	current := svid()
	s.FailWorkloads(errors.New("planted"))
	mustFail(t, verify(open(), current), attest.ErrUnavailable, "no current bundle")
}

func TestALastGoodBundleServesForADay(t *testing.T) {
	var ahead atomic.Int64
	clock := func() time.Time { return now.Add(time.Duration(ahead.Load())) }
	s := brokertest.NewSPIFFE(t, "prod.example", clock)
	v, err := New([]Authority{{Name: "prod", TrustDomain: "prod.example", WorkloadAPI: s.Address}}, Options{Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	long := s.X509SVID(s.ID("/a"), func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(72 * time.Hour) }).Leaf
	verify := func() error {
		_, err := v.Verify(t.Context(), proof(long))
		return err
	}
	if err := verify(); err != nil {
		t.Fatal(err)
	}
	s.FailWorkloads(errors.New("planted"))
	ahead.Store(int64(23 * time.Hour)) // the authority's certificate ends with the day
	if err := verify(); err != nil {
		t.Errorf("within a day: %v", err)
	}
	ahead.Store(int64(maxStale))
	mustFail(t, verify(), attest.ErrUnavailable, "no current bundle")
}

func TestABundleOfAnotherTrustDomain(t *testing.T) {
	dev := brokertest.NewSPIFFE(t, "dev.example", func() time.Time { return now })
	v := newVerifier(t, Authority{Name: "prod", TrustDomain: "prod.example", WorkloadAPI: dev.Address})
	_, err := v.Verify(t.Context(), proof(dev.X509SVID("spiffe://prod.example/a", nil).Leaf))
	mustFail(t, err, attest.ErrUnavailable, "no current bundle")
}
