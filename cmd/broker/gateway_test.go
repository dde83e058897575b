package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// gatewaySession is what a gateway has of a session.
type gatewaySession struct {
	KeyID string `json:"key_id"`
	Key   string `json:"key"`
	Error struct{ Code string }
}

// call makes a request as a gateway does that was given a key: it signs what it sends. Change alters the request afterwards.
func (s gatewaySession) call(address, body string, headers map[string]string, change func(*http.Request)) (answer, error) {
	return s.callPath(address, "/v1/credentials", body, headers, change)
}

func (s gatewaySession) callPath(address, path, body string, headers map[string]string, change func(*http.Request)) (answer, error) {
	key, err := base64.StdEncoding.DecodeString(s.Key)
	if err != nil {
		return answer{}, err
	}
	req, err := http.NewRequest(http.MethodPost, "http://"+address+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	timestamp, nonce, hash := fmt.Sprint(time.Now().Unix()), rand.Text(), sha256.Sum256([]byte(body))
	lines := []string{"credbroker-gateway/1", s.KeyID, timestamp, nonce, "POST", path, "", hex.EncodeToString(hash[:])}
	for _, name := range []string{"x-consumer-id", "x-consumer-custom-id", "x-consumer-username", "x-credential-identifier", "x-authenticated-groups", "x-authenticated-scope"} {
		if value, ok := headers[name]; ok {
			req.Header.Set(name, value)
			lines = append(lines, name+":"+value)
		}
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(strings.Join(lines, "\n") + "\n"))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Credbroker-Gateway-Key-Id", s.KeyID)
	req.Header.Set("X-Credbroker-Gateway-Timestamp", timestamp)
	req.Header.Set("X-Credbroker-Gateway-Nonce", nonce)
	req.Header.Set("X-Credbroker-Gateway-Mac", hex.EncodeToString(mac.Sum(nil)))
	if change != nil {
		change(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{Status: resp.StatusCode}
	return a, json.Unmarshal(data, &a)
}

// speakFor has a workload open a gateway session by its X.509-SVID, and speak for a consumer with it.
func (p *platforms) speakFor(t *testing.T) {
	ca, err := os.ReadFile(p.ca)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	open := func(certificates ...tls.Certificate) gatewaySession {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: certificates}}
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport}).Post(p.HTTP+"/v1/gateway/sessions", "application/json", strings.NewReader(`{"role":"gateway"}`))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var s gatewaySession
		if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := open(); s.KeyID != "" || s.Error.Code != "unauthenticated" {
		t.Errorf("without a certificate: %+v", s)
	}
	if s := open(p.spiffe.X509SVID(p.spiffe.ID("/other"), nil)); s.KeyID != "" || s.Error.Code != "permission_denied" {
		t.Errorf("another workload: %+v", s)
	}
	session := open(p.spiffe.X509SVID(p.spiffe.ID("/workload"), nil))
	consumer := map[string]string{"x-consumer-id": "5b6ad3e2", "x-consumer-username": "reports", "x-credential-identifier": "key-1"}
	var a answer
	brokertest.Eventually(t, 20*time.Second, "the gateway's word is taken", func() error { // for the first seconds after a start it may have been used before
		a, err = session.call(p.gateway, `{"role":"consumer"}`, consumer, nil)
		if err == nil && a.Status != http.StatusOK {
			err = errors.New(a.Error.Code)
		}
		return err
	})
	if err := p.put(a, "from-a-consumer"); err != nil {
		t.Error(err)
	}
	for name, tc := range map[string]struct {
		headers map[string]string
		change  func(*http.Request)
		want    string
	}{
		"another consumer":      {map[string]string{"x-consumer-id": "5b6ad3e3", "x-credential-identifier": "key-2"}, nil, "permission_denied"},
		"a consumer put in":     {consumer, func(r *http.Request) { r.Header.Set("X-Consumer-Id", "root") }, "unauthenticated"},
		"groups put in":         {consumer, func(r *http.Request) { r.Header.Set("X-Authenticated-Groups", "admins") }, "unauthenticated"},
		"a header in disguise":  {consumer, func(r *http.Request) { r.Header["X_Consumer_Id"] = []string{"root"} }, "invalid_request"},
		"an anonymous consumer": {consumer, func(r *http.Request) { r.Header.Set("X-Anonymous-Consumer", "true") }, "invalid_request"},
		"another body": {consumer, func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader([]byte(`{"role":"delegated"}`))), 20
		}, "unauthenticated"},
		"no credential": {map[string]string{"x-consumer-id": "5b6ad3e2"}, nil, "unauthenticated"},
		"no word":       {consumer, func(r *http.Request) { r.Header.Del("X-Credbroker-Gateway-Mac") }, "unauthenticated"},
	} {
		if a, err := session.call(p.gateway, `{"role":"consumer"}`, tc.headers, tc.change); err != nil || a.Error.Code != tc.want {
			t.Errorf("%s: %d %+v, %v", name, a.Status, a.Error, err)
		}
	}
	var captured *http.Request
	if a, err := session.call(p.gateway, `{"role":"consumer"}`, consumer, func(r *http.Request) { captured = r.Clone(t.Context()) }); err != nil || a.Status != http.StatusOK {
		t.Fatalf("%d %+v, %v", a.Status, a.Error, err)
	}
	if a, err := session.call(p.gateway, `{"role":"consumer"}`, consumer, func(r *http.Request) { r.Header = captured.Header }); err != nil || a.Error.Code != "unauthenticated" {
		t.Errorf("replayed: %d %+v, %v", a.Status, a.Error, err)
	}
	stranger := gatewaySession{KeyID: session.KeyID, Key: base64.StdEncoding.EncodeToString(make([]byte, 32))}
	if a, err := stranger.call(p.gateway, `{"role":"consumer"}`, consumer, nil); err != nil || a.Error.Code != "unauthenticated" {
		t.Errorf("another key: %d %+v, %v", a.Status, a.Error, err)
	}
	// A gateway that may be one no more is silenced at once.
	p.WriteConfig(p.config)
	brokertest.Eventually(t, 10*time.Second, "the gateway is refused", func() error {
		if a, err := session.call(p.gateway, `{"role":"consumer"}`, consumer, nil); err != nil || a.Error.Code != "unauthenticated" {
			return fmt.Errorf("%d %+v, %w", a.Status, a.Error, err)
		}
		return nil
	})
	if log := p.Log() + strings.Join(p.Audit(), ""); strings.Contains(log, session.Key) {
		t.Error("the session's key is in a log")
	}
}
