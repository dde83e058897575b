package server

import (
	"context"
	"crypto/tls"
	_ "embed"
	"encoding/base64"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/exchange"
)

// openAPI describes every path of the public HTTP listener.
//
//go:embed openapi.yaml
var openAPI []byte

// IssuerDocuments are what the broker publishes as an OpenID Connect issuer. Both methods answer always, the first at once, the
// second within seconds: the object store must be able to fetch them whatever else is wrong.
type IssuerDocuments interface {
	// Discovery is the JSON of OpenID Connect Discovery 1.0, section 3.
	Discovery() []byte
	// JWKS is a JSON Web Key Set (RFC 7517).
	JWKS(context.Context) []byte
	// URL is the issuer's, without a "/" at its end.
	URL() string
}

// NewGateway returns the HTTP server for gateways: the same API, but the only proof it takes is a gateway's word on a consumer
// (gateway.go), and it is the only one that does.
func NewGateway(l *Listener, b Broker, o Options) *Server {
	api := newHTTPAPI(b, nil, o)
	api.routes, api.gateway = gatewayRoutes, true
	return serveHTTP(l, api, readTimeout+o.RequestTimeout+5*time.Second, o.Log)
}

// NewHTTP returns the public HTTP server: the API as JSON and as headers, and the issuer's documents.
func NewHTTP(l *Listener, b Broker, docs IssuerDocuments, o Options) *Server {
	return serveHTTP(l, newHTTPAPI(b, docs, o), readTimeout+o.RequestTimeout+5*time.Second, o.Log)
}

func newHTTPAPI(b Broker, docs IssuerDocuments, o Options) *httpAPI {
	return &httpAPI{broker: b, docs: docs, opts: o, routes: httpRoutes, open: newSources(maxOpenStreams, maxOpenStreams/2)}
}

// serveHTTP makes a Server of a handler. writeTimeout runs from the end of a request's header.
func serveHTTP(l *Listener, h http.Handler, writeTimeout time.Duration, log *slog.Logger) *Server {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelInfo),
	}
	accept := l.Listener
	if l.Certificates != nil {
		accept = tls.NewListener(accept, l.Certificates.Config())
	}
	return &Server{
		listener: l,
		serve:    func() error { return s.Serve(accept) },
		drain:    s.Shutdown,
		cut:      func() { _ = s.Close() },
	}
}

// httpAPI is the handler of the public HTTP listener.
type httpAPI struct {
	broker Broker
	docs   IssuerDocuments
	opts   Options
	open   *sources // HTTP/2 streams: an HTTP/1 connection has one request
	routes map[string]httpRoute
	// gateway says that this is the listener for gateways.
	gateway bool
	// surface says how what no route answers is refused.
	surface surface
	short   sync.Map // roles of which the log has heard that they are too short-lived: as many as there are
}

// surface is a protocol with an error format of its own.
type surface int

const (
	surfaceAPI surface = iota // the broker's own
	surfaceSTS
	surfaceContainer
	surfaceOAuth
)

// httpCall is one request on its way.
type httpCall struct {
	w    http.ResponseWriter
	r    *http.Request
	corr exchange.Correlation
	// gateway says that the proof is a gateway's word on a consumer.
	gateway bool
	surface surface
	body    []byte // as it was read
}

type httpRoute struct {
	methods []string
	serve   func(*httpAPI, context.Context, *httpCall) error
	surface surface
}

// httpRoutes are all paths, compared byte for byte: nothing is cleaned, unescaped or redirected. One that ends in braces takes one
// segment in their place.
var httpRoutes = map[string]httpRoute{
	"/v1/credentials":         {methods: []string{http.MethodPost}, serve: (*httpAPI).issue},
	"/v1/credentials/headers": {methods: []string{http.MethodGet, http.MethodPost}, serve: (*httpAPI).issueHeaders},
	"/v1/explain":             {methods: []string{http.MethodPost}, serve: (*httpAPI).explain},
	"/v1/roles":               {methods: []string{http.MethodGet}, serve: (*httpAPI).roles},
	"/v1/gateway/sessions":    {methods: []string{http.MethodPost}, serve: (*httpAPI).openSession},
	"/v1/sign":                {methods: []string{http.MethodPost}, serve: (*httpAPI).sign},
	"/v1/presign":             {methods: []string{http.MethodPost}, serve: (*httpAPI).presign},

	"/sts":         {[]string{http.MethodPost}, (*httpAPI).sts, surfaceSTS},
	containerPath:  {[]string{http.MethodGet}, (*httpAPI).containerCredentials, surfaceContainer},
	"/oauth/token": {[]string{http.MethodPost}, (*httpAPI).exchangeToken, surfaceOAuth},

	"/.well-known/oauth-authorization-server": {methods: readMethods, serve: (*httpAPI).oauthMetadata},
	"/.well-known/openid-configuration":       {methods: readMethods, serve: (*httpAPI).discovery},
	"/jwks":                                   {methods: readMethods, serve: (*httpAPI).jwks},
	"/openapi.yaml":                           {methods: readMethods, serve: (*httpAPI).openAPI},
}

// gatewayRoutes are those of the listener for gateways: all that is asked for is in the body, over which a gateway's MAC is.
var gatewayRoutes = map[string]httpRoute{
	"/v1/credentials": httpRoutes["/v1/credentials"],
	"/v1/explain":     httpRoutes["/v1/explain"],
	"/v1/roles":       httpRoutes["/v1/roles"],
	"/v1/sign":        httpRoutes["/v1/sign"],
	"/v1/presign":     httpRoutes["/v1/presign"],
}

var readMethods = []string{http.MethodGet, http.MethodHead}

// Header values that are the same in every answer. net/http only reads them.
var (
	noStore  = []string{"no-store"}
	noSniff  = []string{"nosniff"}
	jsonType = []string{"application/json"}
	yamlType = []string{"application/yaml"}
	// Short, so that a new signing key is seen well before it is used.
	briefly = []string{"public, max-age=60"}
)

func (a *httpAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &httpCall{w: w, r: r, corr: correlationOfHTTP(r.Header), gateway: a.gateway, surface: a.surface}
	h := w.Header()
	h[headerRequestID] = []string{c.corr.RequestID}
	h["Cache-Control"] = noStore
	h["X-Content-Type-Options"] = noSniff
	if len(r.TransferEncoding) > 0 {
		// A request that also had a Content-Length looks the same by now (RFC 9112, section 6.1): whatever a proxy
		// before us takes for its rest must not be read as another request.
		h["Connection"] = []string{"close"}
	}
	defer func() {
		if p := recover(); p != nil {
			logPanic(a.opts.Log, c.corr.RequestID, p)
			c.fail(errPanic)
		}
	}()
	if err := a.admit(c); err != nil {
		if errors.Is(err, broker.ErrInvalidRequest) { // the pipeline logs its own refusals
			a.opts.Log.Info("refused", "request_id", c.corr.RequestID, "path", r.URL.Path, "cause", err.Error())
		}
		c.fail(err)
	}
}

func (a *httpAPI) admit(c *httpCall) error {
	if c.r.ProtoMajor < 2 {
		return a.route(c)
	}
	// net/http takes it from the connection.
	at, _ := netip.ParseAddrPort(c.r.RemoteAddr)
	host := hostOf(net.TCPAddrFromAddrPort(at))
	if !a.open.take(host) {
		return broker.ErrBusy
	}
	defer a.open.drop(host)
	return a.route(c)
}

func (a *httpAPI) route(c *httpCall) error {
	route, ok := a.find(c.r.URL.Path)
	if !ok || c.r.URL.RawPath != "" { // RawPath is set if the path came with escapes that it didn't need
		return errNoSuchPath
	}
	c.surface = route.surface
	if !slices.Contains(route.methods, c.r.Method) {
		c.w.Header()["Allow"] = []string{strings.Join(route.methods, ", ")}
		return errMethod
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), a.opts.RequestTimeout)
	defer cancel()
	return route.serve(a, ctx, c)
}

func (a *httpAPI) find(path string) (httpRoute, bool) {
	if path == "/sts/" { // what AWS's older SDKs make of an endpoint with the path /sts
		path = "/sts"
	}
	if route, ok := a.routes[path]; ok {
		return route, true
	}
	route, ok := a.routes[path[:strings.LastIndexByte(path, '/')+1]+"{role}"]
	return route, ok
}

func (a *httpAPI) issue(ctx context.Context, c *httpCall) error {
	req, err := c.decodeIssue()
	if err != nil {
		return err
	}
	issued, err := a.issued(ctx, req)
	if err != nil {
		return err
	}
	c.write(http.StatusOK, appendIssued(make([]byte, 0, 512+issued.SessionToken.Len()), issued, c.corr.RequestID))
	return nil
}

// issued asks for credentials and sees to it that they can be sent as text.
func (a *httpAPI) issued(ctx context.Context, req broker.Request) (broker.Issued, error) {
	issued, err := a.broker.Issue(ctx, req)
	if err == nil {
		err = sendable(issued)
	}
	return issued, err
}

func (a *httpAPI) issueHeaders(ctx context.Context, c *httpCall) error {
	req, err := c.decodeHeaderForm()
	if err != nil {
		return err
	}
	issued, err := a.issued(ctx, req)
	if err != nil {
		return err
	}
	c.writeIssuedHeaders(issued)
	return nil
}

func (a *httpAPI) explain(ctx context.Context, c *httpCall) error {
	req, err := c.decodeExplain()
	if err != nil {
		return err
	}
	access, err := a.broker.ExplainAccess(ctx, req)
	if err != nil {
		return err
	}
	return c.writeJSON(accessJSON{identityToJSON(&access.Identity), rolesToJSON(access.Roles), c.corr.RequestID})
}

func (a *httpAPI) roles(ctx context.Context, c *httpCall) error {
	req, err := c.decodeBodiless()
	if err != nil {
		return err
	}
	roles, err := a.broker.ListRoles(ctx, req)
	if err != nil {
		return err
	}
	return c.writeJSON(rolesJSON{rolesToJSON(roles), c.corr.RequestID})
}

func (a *httpAPI) openSession(ctx context.Context, c *httpCall) error {
	req, err := c.decodeIssue()
	if err != nil {
		return err
	}
	if req.Policy != "" || req.Actor != nil {
		return invalid("a gateway session has neither policy nor actor")
	}
	opened, err := a.broker.OpenGatewaySession(ctx, req)
	if err != nil {
		return err
	}
	return c.writeJSON(sessionJSON{
		opened.KeyID, base64.StdEncoding.EncodeToString([]byte(opened.Key.Reveal())), opened.Expires.UTC().Format(time.RFC3339), opened.Role, c.corr.RequestID,
	})
}

// warnIfShort tells the caller, and the log once for a role, that a role doesn't live long enough for clients that renew early.
func (a *httpAPI) warnIfShort(c *httpCall, i broker.Issued) {
	if !i.Short {
		return
	}
	c.w.Header()[headerWarning] = shortLived
	if _, known := a.short.LoadOrStore(i.Role, nil); !known {
		a.opts.Log.Warn("role is too short-lived for SDKs, which renew 5 to 15 minutes ahead: they will ask often", "request_id", c.corr.RequestID, "role", i.Role)
	}
}

func (a *httpAPI) discovery(_ context.Context, c *httpCall) error {
	return c.writeStatic(jsonType, a.docs.Discovery())
}

func (a *httpAPI) jwks(ctx context.Context, c *httpCall) error {
	return c.writeStatic(jsonType, a.docs.JWKS(ctx))
}

func (a *httpAPI) openAPI(_ context.Context, c *httpCall) error {
	return c.writeStatic(yamlType, openAPI)
}
