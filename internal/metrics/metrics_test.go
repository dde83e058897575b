package metrics_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/credbroker/credbroker/internal/audit"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/metrics"
	"github.com/credbroker/credbroker/internal/server"
)

func TestMetrics(t *testing.T) {
	m := metrics.New("v1")
	m.Observe(broker.Outcome{Event: "issue_credentials", Decision: audit.Allowed, Result: "hit", Latency: time.Millisecond})
	m.Observe(broker.Outcome{Event: "issue_credentials", Decision: audit.Denied, Code: "permission_denied"})
	m.Exchanged("minio", "ok", 3*time.Millisecond)
	m.AuditFailed()
	m.Loaded(time.Unix(1_800_000_000, 0))
	m.LoadRefused()
	m.Gauge("credbroker_x", "X.", map[string]string{"exchanger": "minio"}, func() float64 { return 4 })
	m.Counter("credbroker_y_total", "Y.", nil, func() float64 { return 5 })
	const want = `
# HELP credbroker_audit_write_errors_total Writes to the audit log that failed.
# TYPE credbroker_audit_write_errors_total counter
credbroker_audit_write_errors_total 1
# HELP credbroker_build_info Always 1; the label tells the version.
# TYPE credbroker_build_info gauge
credbroker_build_info{version="v1"} 1
# HELP credbroker_config_last_load_timestamp_seconds When the configuration in force was loaded.
# TYPE credbroker_config_last_load_timestamp_seconds gauge
credbroker_config_last_load_timestamp_seconds 1.8e+09
# HELP credbroker_config_reloads_total Attempts to load the configuration by outcome (ok, refused).
# TYPE credbroker_config_reloads_total counter
credbroker_config_reloads_total{outcome="ok"} 1
credbroker_config_reloads_total{outcome="refused"} 1
# HELP credbroker_exchanges_total Exchanges at a back-end by exchanger and outcome.
# TYPE credbroker_exchanges_total counter
credbroker_exchanges_total{exchanger="minio",outcome="ok"} 1
# HELP credbroker_requests_total Decisions by event, decision (allowed, denied, failed), error code and result (hit, mint).
# TYPE credbroker_requests_total counter
credbroker_requests_total{code="",decision="allowed",event="issue_credentials",result="hit"} 1
credbroker_requests_total{code="permission_denied",decision="denied",event="issue_credentials",result=""} 1
# HELP credbroker_x X.
# TYPE credbroker_x gauge
credbroker_x{exchanger="minio"} 4
# HELP credbroker_y_total Y.
# TYPE credbroker_y_total counter
credbroker_y_total 5
`
	names := []string{"credbroker_audit_write_errors_total", "credbroker_build_info", "credbroker_config_last_load_timestamp_seconds",
		"credbroker_config_reloads_total", "credbroker_exchanges_total", "credbroker_requests_total", "credbroker_x", "credbroker_y_total"}
	if err := testutil.GatherAndCompare(m.Registry, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
	problems, err := testutil.GatherAndLint(m.Registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "credbroker_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// Error codes come from one table, so the code label is a closed set.
func TestCodesAreAClosedSet(t *testing.T) {
	if codes := server.Codes(); len(codes) > 40 || !slices.Contains(codes, "internal") {
		t.Errorf("%d codes", len(codes))
	}
}
