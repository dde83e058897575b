// Package metrics counts what the broker does, in Prometheus' conventions. Labels come from closed sets: events, codes and
// names of the configuration, never a caller's words.
package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/credbroker/credbroker/internal/broker"
)

// Metrics holds the counters that code on the path increments. Values that are read elsewhere are added with Gauge and
// Counter.
type Metrics struct {
	Registry *prometheus.Registry

	// outcomes has the children of the next two, found by one look-up for each call.
	outcomes  sync.Map // outcomeLabels to outcomeMetrics
	requests  *prometheus.CounterVec
	latency   *prometheus.HistogramVec
	exchanges *prometheus.CounterVec
	exchange  *prometheus.HistogramVec
	redis     *prometheus.CounterVec
	redisTime *prometheus.HistogramVec
	vault     *prometheus.CounterVec
	vaultTime *prometheus.HistogramVec
	audit     prometheus.Counter
	reloads   *prometheus.CounterVec
	reloaded  prometheus.Gauge
}

// New returns metrics in a registry of their own; version is the program's.
func New(version string) *Metrics {
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "credbroker_requests_total",
			Help: "Decisions by event, decision (allowed, denied, failed), error code and result (hit, mint).",
		}, []string{"event", "decision", "code", "result"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "credbroker_request_duration_seconds",
			Help:    "Time from request to audited decision, by event and result (hit, mint; empty if nothing was handed out).",
			Buckets: []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"event", "result"}),
		exchanges: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "credbroker_exchanges_total",
			Help: "Exchanges at a back-end by exchanger and outcome.",
		}, []string{"exchanger", "outcome"}),
		exchange: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "credbroker_exchange_duration_seconds",
			Help:    "Time of an exchange with its retries, by exchanger.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"exchanger"}),
		redis: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "credbroker_redis_operations_total",
			Help: "Operations on Redis by operation and outcome (ok, error, skipped while Redis is away). Operation open with outcome error is a value that was not sealed by this installation.",
		}, []string{"operation", "outcome"}),
		redisTime: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "credbroker_redis_operation_duration_seconds",
			Help:    "Time of an operation on Redis that got an answer, by operation.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"operation"}),
		vault: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "credbroker_vault_operations_total",
			Help: "Dealings with Vault by operation (login, renew and revoke of the broker's token; call) and outcome (ok, unavailable, refused, failed).",
		}, []string{"operation", "outcome"}),
		vaultTime: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "credbroker_vault_operation_duration_seconds",
			Help:    "Time of a dealing with Vault that succeeded, with its retries, by operation.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"operation"}),
		audit: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "credbroker_audit_write_errors_total",
			Help: "Writes to the audit log that failed.",
		}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "credbroker_config_reloads_total",
			Help: "Attempts to load the configuration by outcome (ok, refused).",
		}, []string{"outcome"}),
		reloaded: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "credbroker_config_last_load_timestamp_seconds",
			Help: "When the configuration in force was loaded.",
		}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "credbroker_build_info", Help: "Always 1; the label tells the version.", ConstLabels: prometheus.Labels{"version": version},
	})
	info.Set(1)
	m.Registry.MustRegister(m.requests, m.latency, m.exchanges, m.exchange, m.redis, m.redisTime, m.vault, m.vaultTime, m.audit, m.reloads, m.reloaded, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// outcomeLabels are what a call is counted by: words from closed sets, so there are few.
type outcomeLabels struct {
	event, decision, code, result string
}

type outcomeMetrics struct {
	requests prometheus.Counter
	latency  prometheus.Observer
}

// Observe counts one call; it is broker.Config's hook.
func (m *Metrics) Observe(o broker.Outcome) {
	labels := outcomeLabels{o.Event, string(o.Decision), o.Code, o.Result}
	found, ok := m.outcomes.Load(labels)
	if !ok {
		found, _ = m.outcomes.LoadOrStore(labels, outcomeMetrics{
			m.requests.WithLabelValues(labels.event, labels.decision, labels.code, labels.result),
			m.latency.WithLabelValues(labels.event, labels.result),
		})
	}
	by := found.(outcomeMetrics)
	by.requests.Inc()
	by.latency.Observe(o.Latency.Seconds())
}

// Exchanged counts one exchange.
func (m *Metrics) Exchanged(exchanger, outcome string, took time.Duration) {
	m.exchanges.WithLabelValues(exchanger, outcome).Inc()
	m.exchange.WithLabelValues(exchanger).Observe(took.Seconds())
}

// RedisOperation counts one operation on Redis.
func (m *Metrics) RedisOperation(operation, outcome string, took time.Duration) {
	m.redis.WithLabelValues(operation, outcome).Inc()
	if outcome == "ok" {
		m.redisTime.WithLabelValues(operation).Observe(took.Seconds())
	}
}

// VaultOperation counts one dealing with Vault.
func (m *Metrics) VaultOperation(operation, outcome string, took time.Duration) {
	m.vault.WithLabelValues(operation, outcome).Inc()
	if outcome == "ok" {
		m.vaultTime.WithLabelValues(operation).Observe(took.Seconds())
	}
}

// AuditFailed counts a failed write to the audit log.
func (m *Metrics) AuditFailed() { m.audit.Inc() }

// Loaded counts a configuration put in force at the given time.
func (m *Metrics) Loaded(at time.Time) {
	m.reloads.WithLabelValues("ok").Inc()
	m.reloaded.Set(float64(at.UnixNano()) / 1e9)
}

// LoadRefused counts a configuration that was refused.
func (m *Metrics) LoadRefused() { m.reloads.WithLabelValues("refused").Inc() }

// Gauge adds a value that is read when it is scraped; labels are constant.
func (m *Metrics) Gauge(name, help string, labels map[string]string, read func() float64) {
	m.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, read))
}

// Counter is Gauge for a value that only grows.
func (m *Metrics) Counter(name, help string, labels map[string]string, read func() float64) {
	m.Registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, read))
}
