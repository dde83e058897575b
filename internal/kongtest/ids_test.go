package kongtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// storeLog is what a MinIO tells of its requests.
type storeLog struct {
	URL string
	mu  sync.Mutex
	all []storeEntry
}

// storeEntry is a line of MinIO's audit log, of which a request is.
type storeEntry struct {
	RequestID string `json:"requestID"`
	AccessKey string `json:"accessKey"`
	API       struct{ Name, Bucket, Object string }
	Header    map[string]string `json:"requestHeader"`
}

func newStoreLog(t *testing.T) *storeLog {
	t.Helper()
	l := &storeLog{}
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		var e storeEntry
		if err != nil || json.Unmarshal(data, &e) != nil {
			return // it asks at its start whether anybody is there
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.all = append(l.all, e)
	}))
	t.Cleanup(s.Close)
	l.URL = s.URL
	return l
}

// of is the line with MinIO's own ID of a request.
func (l *storeLog) of(requestID string) (storeEntry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.all {
		if e.RequestID == requestID {
			return e, true
		}
	}
	return storeEntry{}, false
}

// TestIDsMeet follows one request through Kong's log, the broker's audit and MinIO's: each has the others' IDs, in every mode that signs.
func TestIDsMeet(t *testing.T) {
	store := newStoreLog(t)
	w := newWorldOver(t, brokertest.MinIOOptions{AuditURL: store.URL})
	dir := t.TempDir()
	var services []string
	modes := []string{"sign", "sign_remote"}
	for _, mode := range modes {
		services = append(services, service(mode, w.minio.Endpoint, "/"+mode, keyAuth, w.plugin("mode: "+mode), "{name: file-log, config: {path: "+filepath.Join(dir, mode)+"}}"))
	}
	g := Start(t, Options{Config: declared(services...)})
	for _, mode := range modes {
		patiently(t, 30*time.Second, mode, g.URL+"/"+mode+"/reports/acme/none", header("alice"), http.StatusNotFound)
		brokertest.Eventually(t, 20*time.Second, "all have been told", func() error {
			data, err := os.ReadFile(filepath.Join(dir, mode))
			if err != nil {
				return err
			}
			lines := strings.Split(strings.TrimSpace(string(data)), "\n")
			var entry struct {
				Request struct{ ID string }
				Broker  struct {
					AccessKeyID     string `json:"access_key_id"`
					BrokerRequestID string `json:"broker_request_id"`
					StoreRequestID  string `json:"store_request_id"`
				} `json:"credential_broker"`
			}
			if err := json.Unmarshal([]byte(lines[len(lines)-1]), &entry); err != nil {
				return err
			}
			of, ok := store.of(entry.Broker.StoreRequestID)
			if !ok {
				return fmt.Errorf("MinIO has no request %q", entry.Broker.StoreRequestID)
			}
			if of.AccessKey != entry.Broker.AccessKeyID || of.Header["X-Kong-Request-Id"] != entry.Request.ID || of.API.Object != "acme/none" || entry.Request.ID == "" {
				t.Fatalf("Kong's log has %+v, MinIO's %+v", entry, of)
			}
			for _, line := range w.Audit() {
				if strings.Contains(line, `"kong_request_id":"`+entry.Request.ID+`"`) && strings.Contains(line, entry.Broker.BrokerRequestID) && strings.Contains(line, entry.Broker.AccessKeyID) {
					return nil
				}
			}
			return fmt.Errorf("no audit entry has them: %s", data)
		})
	}
}
