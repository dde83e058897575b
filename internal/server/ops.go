package server

import (
	"log/slog"
	"net/http"
	"net/http/pprof"
	"strconv"
	"time"
)

// NewOps returns the server of the metrics listener: /metrics, /healthz and /readyz, and with profiling /debug/pprof/. It
// changes nothing and shows nothing that is secret, so it asks nobody for a proof.
func NewOps(l *Listener, metrics http.Handler, ready func() Readiness, profiling bool, log *slog.Logger) *Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { writeReadiness(w, ready()) })
	if profiling {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	safe := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["Cache-Control"] = noStore
		h["X-Content-Type-Options"] = noSniff
		defer func() {
			if p := recover(); p != nil {
				logPanic(log, "", p)
				w.WriteHeader(http.StatusInternalServerError)
			}
		}()
		mux.ServeHTTP(w, r)
	})
	return serveHTTP(l, safe, time.Minute, log) // a profile takes 30 s
}

func writeReadiness(w http.ResponseWriter, r Readiness) {
	dst := strconv.AppendBool([]byte(`{"ready":`), r.Ready)
	dst = append(dst, `,"reasons":[`...)
	for i, reason := range r.Reasons {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, reason)
	}
	w.Header()["Content-Type"] = jsonType
	if !r.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write(append(dst, "]}\n"...))
}
