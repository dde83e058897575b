package awsiam

import (
	"cmp"
	"compress/gzip"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/secret"
)

// fixture is a verifier whose STS is a stand-in, reached by the hosts' own names.
type fixture struct {
	*Verifier
	sts *brokertest.AWSSTS
}

var role = brokertest.AWSPrincipal{
	Account: "123456789012", ARN: "arn:aws:sts::123456789012:assumed-role/reports/i-0123456789", UserID: "AROA1234567890EXAMPLE:i-0123456789",
}

func newFixture(t testing.TB, change ...func(*Config)) *fixture {
	t.Helper()
	f := &fixture{sts: brokertest.NewAWSSTS(t)}
	s := newSigning()
	f.sts.Add(brokertest.AWSKey{ID: s.keys.AccessKeyID, Secret: s.keys.SecretAccessKey, SessionToken: s.keys.SessionToken, Principal: role})
	pem, err := os.ReadFile(f.sts.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	c := Config{
		ServerID: serverID, Skew: time.Minute, Accounts: []string{"210987654321", "123456789012"}, Roots: x509.NewCertPool(),
		Replay: attest.NewReplayMemory(func() time.Time { return time.Now().Add(-time.Hour) }),
	}
	c.Roots.AppendCertsFromPEM(pem)
	for host, region := range brokertest.Hosts {
		partition := "aws"
		if e := awsEndpoints[host]; e != nil {
			partition = e.partition
		}
		c.Endpoints = append(c.Endpoints, Endpoint{Host: host, Partition: partition, Region: region, Address: f.sts.Addr})
	}
	for _, f := range change {
		f(&c)
	}
	if f.Verifier, err = New(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

func (f *fixture) verify(t testing.TB, proof string) (attest.Identity, error) {
	t.Helper()
	return f.Verify(t.Context(), attest.Proof{Kind: attest.KindAWS, Data: secret.New(proof)})
}

func TestARoleProvesItself(t *testing.T) {
	f := newFixture(t)
	s := newSigning()
	for name, proof := range map[string]string{"login data": encode(t, s.login(t)), "presigned": token(s.presign(t))} {
		id, err := f.verify(t, proof)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if id.Kind != "aws" || id.Issuer != "aws" || id.Tenant != "123456789012" || id.Subject != "AROA1234567890EXAMPLE" || id.Session != "i-0123456789" || !id.Expires.Equal(s.at.Add(5*time.Minute)) {
			t.Errorf("%s: %+v", name, id)
		}
		if got := fmt.Sprint(id.Attrs); got != "map[account:[123456789012] arn:[arn:aws:iam::123456789012:role/reports] partition:[aws] role:[reports] type:[role]]" {
			t.Errorf("%s: %s", name, got)
		}
	}
	if n := len(f.sts.Requests()); n != 2 {
		t.Errorf("STS was asked %d times", n)
	}
}

func TestAUserProvesItselfOnAnyEndpoint(t *testing.T) {
	for host, region := range brokertest.Hosts {
		f := newFixture(t)
		s := newSigning()
		s.host, s.region = host, region
		s.keys.AccessKeyID, s.keys.SessionToken = "AKIAIOSFODNN7EXAMPLE", ""
		partition := awsEndpoints[host].partition
		f.sts.Add(brokertest.AWSKey{ID: s.keys.AccessKeyID, Secret: s.keys.SecretAccessKey, Principal: brokertest.AWSPrincipal{
			Account: "123456789012", ARN: "arn:" + partition + ":iam::123456789012:user/a/alice", UserID: "AIDA1234567890EXAMPLE",
		}})
		for name, proof := range map[string]string{"login data": encode(t, s.login(t)), "presigned": token(s.presign(t))} {
			id, err := f.verify(t, proof)
			if err != nil || id.Issuer != partition || id.Subject != "AIDA1234567890EXAMPLE" || fmt.Sprint(id.Attrs["user"], id.Attrs["path"]) != "[alice] [/a/]" || !id.PathAttrs["path"] {
				t.Errorf("%s, %s: %+v, %v", host, name, id, err)
			}
		}
	}
}

// Nothing of these reaches STS.
func TestProofsThatAreRefusedHere(t *testing.T) {
	for name, c := range map[string]struct {
		signing func(*signing)
		want    string
		err     error
	}{
		"for another broker":        {func(s *signing) { s.header.Set("X-Credbroker-Server-Id", "other.example") }, "another server ID", nil},
		"for a longer name":         {func(s *signing) { s.header.Set("X-Credbroker-Server-Id", serverID+".evil") }, "another server ID", nil},
		"signed six minutes ago":    {func(s *signing) { s.at = s.at.Add(-6 * time.Minute) }, "too old", nil},
		"signed in a minute":        {func(s *signing) { s.at = s.at.Add(62 * time.Second) }, "to come", nil},
		"before the memory of uses": {func(s *signing) { s.at = s.at.Add(-4 * time.Minute) }, "older than the memory", attest.ErrUnavailable},
	} {
		f := newFixture(t, func(c *Config) {
			if name == "before the memory of uses" {
				c.Replay = attest.NewReplayMemory(time.Now)
			}
		})
		s := newSigning()
		c.signing(&s)
		if _, err := f.verify(t, encode(t, s.login(t))); !errors.Is(err, cmp.Or(c.err, attest.ErrRejected)) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if n := len(f.sts.Requests()); n != 0 {
			t.Errorf("%s: STS was asked", name)
		}
	}
	f := newFixture(t)
	s := newSigning()
	s.at = s.at.Add(-2 * time.Minute)
	if _, err := f.verify(t, token(s.presign(t))); !errors.Is(err, attest.ErrRejected) || !strings.Contains(err.Error(), "too old") {
		t.Errorf("presigned for a minute, two minutes ago: %v", err)
	}
	if _, err := f.verify(t, "nonsense"); !errors.Is(err, attest.ErrMalformed) {
		t.Errorf("nonsense: %v", err)
	}
	if _, err := f.Verify(t.Context(), attest.Proof{Kind: attest.KindJWT, Data: secret.New(encode(t, newSigning().login(t)))}); !errors.Is(err, attest.ErrMalformed) {
		t.Errorf("of another kind: %v", err)
	}
	if n := len(f.sts.Requests()); n != 0 {
		t.Errorf("STS was asked")
	}
}

// STS refuses what isn't signed as it says.
func TestSignaturesThatDontHold(t *testing.T) {
	for name, change := range map[string]func(*signing, map[string]string){
		"another secret": func(s *signing, in map[string]string) {
			s.keys.SecretAccessKey = "wrong"
			in["headers"] = s.login(t)["headers"]
		},
		"an unknown key": func(_ *signing, in map[string]string) {
			in["headers"] = strings.Replace(in["headers"], "ASIA", "ASIB", 1)
		},
		"another signature": func(_ *signing, in map[string]string) { in["headers"] = flipSignature(in["headers"]) },
		"another nonce": func(_ *signing, in map[string]string) {
			in["headers"] = strings.Replace(in["headers"], `["n1"]`, `["n2"]`, 1)
		},
		"another session token": func(_ *signing, in map[string]string) {
			in["headers"] = strings.Replace(in["headers"], "planted/session", "planted/sessiom", 1)
		},
		"another content type": func(_ *signing, in map[string]string) {
			in["headers"] = strings.Replace(in["headers"], "; charset=utf-8", "", 1)
		},
		"another endpoint's host": func(_ *signing, in map[string]string) { in["url"] = "https://vpce.example/" },
	} {
		f := newFixture(t, func(c *Config) {
			c.Endpoints = append(c.Endpoints, Endpoint{Host: "vpce.example", Partition: "aws", Region: "eu-west-1", Address: c.Endpoints[0].Address})
		})
		s := newSigning()
		in := s.login(t)
		change(&s, in)
		_, err := f.verify(t, encode(t, in))
		want := attest.ErrRejected
		if name == "another endpoint's host" { // the certificate isn't for it
			want = attest.ErrUnavailable
		}
		if !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f := newFixture(t, func(c *Config) { c.ServerID = "other.example" })
	if _, err := f.verify(t, token(newSigning().presign(t))); !errors.Is(err, attest.ErrRejected) || !strings.Contains(err.Error(), "SignatureDoesNotMatch") {
		t.Errorf("presigned for another broker: %v", err)
	}
}

func flipSignature(headers string) string {
	at := strings.Index(headers, "Signature=") + len("Signature=")
	c := "0"
	if headers[at] == '0' {
		c = "1"
	}
	return headers[:at] + c + headers[at+1:]
}

// threats.md: the same proof twice, 1 ms apart or at the same time.
func TestAProofIsGoodOnce(t *testing.T) {
	f := newFixture(t)
	s := newSigning()
	proof := encode(t, s.login(t))
	var wait sync.WaitGroup
	var mu sync.Mutex
	passed := 0
	for range 20 {
		wait.Go(func() {
			_, err := f.verify(t, proof)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				passed++
			} else if !errors.Is(err, attest.ErrRejected) || errors.Is(err, attest.ErrUsed) {
				t.Errorf("with a nonce: %v", err)
			}
		})
	}
	wait.Wait()
	if passed != 1 || len(f.sts.Requests()) != 1 {
		t.Errorf("%d passed, and STS was asked %d times", passed, len(f.sts.Requests()))
	}
	// Whatever else is changed of it that isn't signed: it is the same proof.
	in := s.login(t)
	in["headers"] = strings.Replace(in["headers"], "{", `{"User-Agent":["x"],`, 1)
	if _, err := f.verify(t, encode(t, in)); !errors.Is(err, attest.ErrRejected) {
		t.Errorf("with another header: %v", err)
	}
	// Without a nonce it may be another caller's who signed in the same second.
	s.header.Del("X-Credbroker-Nonce")
	for n, want := range []error{nil, attest.ErrUsed} {
		if _, err := f.verify(t, encode(t, s.login(t))); !errors.Is(err, want) {
			t.Errorf("without a nonce, %d: %v", n, err)
		}
	}
	for n, want := range []error{nil, attest.ErrUsed} {
		if _, err := f.verify(t, token(s.presign(t))); !errors.Is(err, want) {
			t.Errorf("presigned, %d: %v", n, err)
		}
	}
}

type brokenReplay struct{ err error }

func (r brokenReplay) Use(context.Context, [32]byte, time.Time, time.Duration) error { return r.err }

func TestWithoutAMemoryOfUsesNothingIsTaken(t *testing.T) {
	for _, want := range []error{attest.ErrUnavailable, context.Canceled} {
		f := newFixture(t, func(c *Config) { c.Replay = brokenReplay{want} })
		if _, err := f.verify(t, encode(t, newSigning().login(t))); !errors.Is(err, want) || len(f.sts.Requests()) != 0 {
			t.Errorf("%v, and STS was asked %d times", err, len(f.sts.Requests()))
		}
	}
}

func TestAnswersOfSTS(t *testing.T) {
	say := func(p brokertest.AWSPrincipal) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { brokertest.GetCallerIdentityAnswer(w, p) }
	}
	changed := func(change func(*brokertest.AWSPrincipal)) http.HandlerFunc {
		p := role
		change(&p)
		return say(p)
	}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   error
		text   string
		asked  int
	}{
		"another account": {changed(func(p *brokertest.AWSPrincipal) {
			p.Account, p.ARN = "999999999999", strings.ReplaceAll(p.ARN, p.Account, "999999999999")
		}), attest.ErrRejected, "not accepted", 1},
		"accounts that differ": {changed(func(p *brokertest.AWSPrincipal) { p.Account = "210987654321" }), attest.ErrRejected, "account", 1},
		"another partition":    {changed(func(p *brokertest.AWSPrincipal) { p.ARN = strings.Replace(p.ARN, ":aws:", ":aws-cn:", 1) }), attest.ErrRejected, "partition", 1},
		"the account's root":   {changed(func(p *brokertest.AWSPrincipal) { p.ARN, p.UserID = "arn:aws:iam::123456789012:root", p.Account }), attest.ErrRejected, "neither", 1},
		"XML in the session":   {changed(func(p *brokertest.AWSPrincipal) { p.ARN = strings.Replace(p.ARN, "i-0", "</Arn><Arn>x", 1) }), attest.ErrRejected, "twice", 1},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example/", http.StatusFound)
		}, attest.ErrUnavailable, "302", 1},
		"JSON": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, soundAnswer)
		}, attest.ErrUnavailable, "text/xml", 1},
		"no content type": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = nil
			fmt.Fprint(w, soundAnswer)
		}, attest.ErrUnavailable, "text/xml", 1},
		"a charset": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/xml; charset=utf-16")
			fmt.Fprint(w, soundAnswer)
		}, attest.ErrUnavailable, "text/xml", 1},
		"an answer that breaks off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/xml")
			w.Header().Set("Content-Length", "9999")
			fmt.Fprint(w, soundAnswer)
		}, attest.ErrUnavailable, "breaks off", tries},
		"two content types": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = []string{"text/xml", "application/json"}
			fmt.Fprint(w, soundAnswer)
		}, attest.ErrUnavailable, "text/xml", 1},
		"a compressed answer": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/xml")
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			fmt.Fprint(z, soundAnswer)
			z.Close()
		}, attest.ErrRejected, "XML", 1},
		"a refusal of 400":           {func(w http.ResponseWriter, _ *http.Request) { brokertest.STSError(w, 400, "Other") }, attest.ErrRejected, "400 Other", 1},
		"an endless answer":          {endless, attest.ErrUnavailable, "larger", tries},
		"a refusal":                  {func(w http.ResponseWriter, _ *http.Request) { brokertest.STSError(w, 403, "ExpiredToken") }, attest.ErrRejected, "ExpiredToken", 1},
		"a refusal in hostile words": {func(w http.ResponseWriter, _ *http.Request) { brokertest.STSError(w, 403, "&#10;forged line") }, attest.ErrRejected, "403 ", 1},
		"throttling":                 {func(w http.ResponseWriter, _ *http.Request) { brokertest.STSError(w, 400, "Throttling") }, attest.ErrUnavailable, "Throttling", tries},
		"another success": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/xml")
			w.WriteHeader(http.StatusNonAuthoritativeInfo)
			fmt.Fprint(w, soundAnswer)
		}, attest.ErrUnavailable, "203", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // some wait between tries
			f := newFixture(t)
			f.sts.Answer(c.answer)
			_, err := f.verify(t, encode(t, newSigning().login(t)))
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "forged") {
				t.Errorf("got %v", err)
			}
			if n := len(f.sts.Requests()); n != c.asked {
				t.Errorf("STS was asked %d times", n)
			}
		})
	}
}

func endless(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/xml")
	for range 1 << 30 / 4096 {
		if _, err := w.Write(make([]byte, 4096)); err != nil {
			return
		}
	}
}

// What can't be sent is said without what would have been.
func TestAnSTSThatIsAwayIsNamedWithoutTheRequest(t *testing.T) {
	f := newFixture(t)
	f.sts.Answer(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	proof := newSigning().presign(t)
	_, err := f.verify(t, token(proof))
	if !errors.Is(err, attest.ErrUnavailable) || !strings.Contains(err.Error(), "sts.eu-west-1.amazonaws.com can't be reached: ") ||
		strings.Contains(err.Error(), "Signature") || strings.Contains(err.Error(), "https://") {
		t.Error(err)
	}
}

func TestACallerThatLeavesEndsIt(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	f.sts.Answer(func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	if _, err := f.Verify(ctx, attest.Proof{Kind: attest.KindAWS, Data: secret.New(encode(t, newSigning().login(t)))}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// AWS's own names lead to public addresses alone.
func TestAWSNamesAreNotFollowedIntoTheNetwork(t *testing.T) {
	f := newFixture(t)
	conn, err := f.client.Transport.(*http.Transport).DialContext(t.Context(), "tcp", "localhost:443")
	if err == nil {
		conn.Close()
	}
	if !errors.Is(err, errPrivate) {
		t.Errorf("got %v", err)
	}
}

func TestAnErrorDoesntRepeatAPresignedRequest(t *testing.T) {
	f := newFixture(t, func(c *Config) {
		for i := range c.Endpoints {
			c.Endpoints[i].Address = "127.0.0.1:1"
		}
	})
	_, err := f.verify(t, token(newSigning().presign(t)))
	if !errors.Is(err, attest.ErrUnavailable) || strings.Contains(err.Error(), "X-Amz") || strings.Contains(err.Error(), "planted") || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v", err)
	}
}

func TestNewTellsEveryFault(t *testing.T) {
	sound := Config{ServerID: serverID, Accounts: []string{"123456789012"}, Skew: time.Second, Replay: brokenReplay{}}
	endpoint := Endpoint{Host: "vpce-1.sts.eu-west-1.vpce.amazonaws.com", Partition: "aws", Region: "eu-west-1"}
	for name, change := range map[string]func(*Config){
		"the longest skew": func(c *Config) { c.Skew = time.Minute },
		"a long server ID": func(c *Config) { c.ServerID = strings.Repeat("~", 255) },
		"an endpoint":      func(c *Config) { c.Endpoints = []Endpoint{endpoint} },
	} {
		c := sound
		change(&c)
		v, err := New(c)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if e := v.configured[endpoint.Host]; e != nil && e.address != endpoint.Host+":443" {
			t.Errorf("%s: is dialled at %s", name, e.address)
		}
	}
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no server ID":       {func(c *Config) { c.ServerID = "" }, "server_id"},
		"a longer one":       {func(c *Config) { c.ServerID = strings.Repeat("~", 256) }, "server_id"},
		"one of two lines":   {func(c *Config) { c.ServerID = "a\nb" }, "server_id"},
		"no account":         {func(c *Config) { c.Accounts = nil }, "accounts"},
		"a short account":    {func(c *Config) { c.Accounts = []string{"123"} }, "12 digits"},
		"no skew":            {func(c *Config) { c.Skew = time.Second - 1 }, "skew"},
		"a long skew":        {func(c *Config) { c.Skew = time.Minute + 1 }, "skew"},
		"no memory":          {func(c *Config) { c.Replay = nil }, "memory"},
		"no host":            {func(c *Config) { c.Endpoints[0].Host = "" }, "endpoints"},
		"a port":             {func(c *Config) { c.Endpoints[0].Host += ":443" }, "endpoints"},
		"a host in capitals": {func(c *Config) { c.Endpoints[0].Host = "STS.example" }, "endpoints"},
		"a host with escape": {func(c *Config) { c.Endpoints[0].Host = "a%00" }, "endpoints"},
		"another partition":  {func(c *Config) { c.Endpoints[0].Partition = "p" }, "endpoints"},
		"no region":          {func(c *Config) { c.Endpoints[0].Region = "" }, "endpoints"},
		"a host twice":       {func(c *Config) { c.Endpoints = append(c.Endpoints, endpoint) }, "twice"},
	} {
		config := sound
		config.Endpoints = []Endpoint{endpoint}
		c.change(&config)
		if _, err := New(config); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, expected one fault with %q", name, err, c.want)
		}
	}
	if _, err := New(Config{}); err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("four faults: %v", err)
	}
}

// To the second: clocks may be ahead by the skew, and proofs five minutes old.
func TestTheTimeOfAProof(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	v := &Verifier{config: Config{ServerID: serverID, Skew: 30 * time.Second, Now: func() time.Time { return now }}}
	for name, c := range map[string]struct {
		r    request
		want string
	}{
		"now":                    {request{date: now}, ""},
		"ahead by the skew":      {request{date: now.Add(30 * time.Second)}, ""},
		"ahead by more":          {request{date: now.Add(31 * time.Second)}, "to come"},
		"five minutes old":       {request{date: now.Add(-5 * time.Minute)}, ""},
		"older":                  {request{date: now.Add(-5*time.Minute - time.Second)}, "too old"},
		"presigned, to its end":  {request{date: now.Add(-time.Minute), presigned: true, expires: time.Minute}, ""},
		"presigned, beyond":      {request{date: now.Add(-time.Minute), presigned: true, expires: time.Minute - time.Second}, "too old"},
		"presigned, long":        {request{date: now.Add(-5*time.Minute - time.Second), presigned: true, expires: 15 * time.Minute}, "too old"},
		"presigned, to come":     {request{date: now.Add(31 * time.Second), presigned: true, expires: time.Minute}, "to come"},
		"another broker's":       {request{date: now, serverID: "other.example"}, "another server ID"},
		"a part of a server ID":  {request{date: now, serverID: serverID[1:]}, "another server ID"},
		"in other letters' case": {request{date: now, serverID: strings.ToUpper(serverID)}, "another server ID"},
	} {
		if !c.r.presigned && c.r.serverID == "" {
			c.r.serverID = serverID
		}
		if err := v.check(&c.r); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, expected %q", name, err, c.want)
		}
	}
}

// STS gets the headers that were signed, and of ours three that say nothing.
func TestWhatSTSReceives(t *testing.T) {
	f := newFixture(t)
	s := newSigning()
	in := s.login(t)
	in["headers"] = strings.Replace(in["headers"], "{", `{"Accept-Encoding":["gzip"],"User-Agent":["planted"],"Connection":["upgrade"],"Amz-Sdk-Request":["attempt=1"],`, 1)
	if _, err := f.verify(t, encode(t, in)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.verify(t, token(s.presign(t))); err != nil {
		t.Fatal(err)
	}
	for n, want := range [][]string{
		{"Accept", "Authorization", "Content-Length", "Content-Type", "User-Agent", "X-Amz-Date", "X-Amz-Security-Token", "X-Credbroker-Nonce", "X-Credbroker-Server-Id"},
		{"Accept", "User-Agent", "X-K8s-Aws-Id"},
	} {
		got := f.sts.Requests()[n]
		if names := slices.Sorted(maps.Keys(got.Header)); !slices.Equal(names, want) || got.Header.Get("User-Agent") != "credbroker" || got.Host != s.host || got.Path != "/" {
			t.Errorf("%s %s%s with %q", got.Method, got.Host, got.Path, names)
		}
	}
}
