package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	goredis "github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/credbroker/credbroker"
	"github.com/credbroker/credbroker/internal/config"
	"github.com/credbroker/credbroker/internal/secret"
	"github.com/credbroker/credbroker/prove"
)

// benchFlags say what is measured, besides the broker.
type benchFlags struct {
	client      clientFlags
	concurrency int
	duration    time.Duration
	asJSON      bool

	redis, redisUsername, redisPasswordFile string
	redisTLS                                config.RedisTLS

	minio, bucket, key string
}

func newBenchCommand() *cobra.Command {
	var f benchFlags
	c := &cobra.Command{
		Use:     "bench",
		GroupID: "use",
		Short:   "Measure a broker under load, and what stands behind it",
		Long: `bench asks a broker for credentials again and again, from as many connections as --concurrency says, and prints how many calls
a second it answers and how long they take. All calls are of one identity and role: from the second on they come from its memory.

A slow object store, or a slow way to Redis, is easily taken for a slow broker. So bench measures those as well, one after the
other, from here: PING of a Redis (--redis) and GET of an object with the credentials it got (--minio, --bucket, --key).

Every call is a line in the broker's audit log. Ctrl-C ends it early; what was measured by then is printed.`,
		Example: `  broker bench --endpoint grpcs://broker.internal:9443 --token-file token --role reports \
    --redis redis.internal:6379 --minio https://minio.internal:9000 --bucket reports --key probe`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	f.client.register(c)
	flags := c.Flags()
	flags.IntVar(&f.concurrency, "concurrency", 32, "calls under way at one time, each on a connection of its own; 1 to 1024")
	flags.DurationVar(&f.duration, "duration", 10*time.Second, "how long each is measured")
	flags.BoolVar(&f.asJSON, "json", false, "print JSON; durations are in microseconds")
	flags.StringVar(&f.redis, "redis", "", "host:port of a Redis to measure as well")
	flags.StringVar(&f.redisUsername, "redis-username", "", "its ACL user")
	flags.StringVar(&f.redisPasswordFile, "redis-password-file", "", "file of its password")
	flags.BoolVar(&f.redisTLS.Enabled, "redis-tls", false, "speak TLS to it")
	flags.StringVar(&f.redisTLS.CAFile, "redis-ca-file", "", "PEM file of the CA of its certificate; the system's if not given")
	flags.StringVar(&f.minio, "minio", "", "URL of a MinIO to measure as well; its certificate comes from one of the system's CAs")
	flags.StringVar(&f.bucket, "bucket", "", "bucket of the object to read from it")
	flags.StringVar(&f.key, "key", "", "key of the object to read from it, best a small one")
	return c
}

func (f *benchFlags) check() error {
	given := []bool{f.minio != "", f.bucket != "", f.key != ""}
	at, err := url.Parse(f.minio)
	switch {
	case f.concurrency < 1 || f.concurrency > 1024:
		return fmt.Errorf("--concurrency is %d; 1 to 1024 is expected", f.concurrency)
	case f.duration <= 0:
		return fmt.Errorf("--duration is %s; more than nothing is expected", f.duration)
	case slices.Contains(given, true) && slices.Contains(given, false):
		return errors.New("--minio, --bucket and --key go together")
	case f.minio != "" && (err != nil || at.Host == "" || at.Path != "" || at.User != nil || at.Scheme != "http" && at.Scheme != "https"):
		return errors.New("--minio must be a URL such as https://minio.internal:9000")
	case f.minio != "" && at.Scheme == "http" && !f.client.plaintext && !loopback(at.Hostname()):
		return errors.New("--minio is http:// beyond this machine: use https://, or say --insecure-plaintext")
	}
	host, _, err := net.SplitHostPort(f.redis)
	switch {
	case f.redis == "":
	case err != nil:
		return errors.New("--redis must be host:port")
	case f.redisPasswordFile != "" && !f.redisTLS.Enabled && !f.client.plaintext && !loopback(host):
		return errors.New("--redis-password-file would be sent in plaintext beyond this machine: use --redis-tls, or say --insecure-plaintext")
	}
	return f.client.check()
}

func (f *benchFlags) run(c *cobra.Command) error {
	if err := f.check(); err != nil {
		return &usageError{err, c.CommandPath()}
	}
	kind, err := f.client.proof.choose(c)
	if err != nil {
		return err
	}
	prover, err := kind.prover(c, &f.client.proof)
	if err != nil {
		return err
	}
	if kind.asks {
		prover = &keptProof{prover: prover}
	}
	hops, closeAll, err := f.hops(prover)
	defer closeAll()
	if err != nil {
		return err
	}
	ctx := c.Context()
	for _, h := range hops { // what doesn't work at all needs no load
		if err := h.call(ctx, 0); err != nil {
			return fmt.Errorf("%s: %w", h.name, err)
		}
	}
	results := make([]hopResult, 0, len(hops))
	for _, h := range hops {
		if ctx.Err() == nil {
			results = append(results, h.measure(ctx, f.concurrency, f.duration))
		}
	}
	if f.asJSON {
		return json.NewEncoder(c.OutOrStdout()).Encode(benchResult{f.concurrency, ctx.Err() != nil, results})
	}
	printHops(c.OutOrStdout(), results)
	return nil
}

// keptProof gives the same proof for half a minute: what is measured is the broker, and the platform that signs shall not be hammered.
type keptProof struct {
	prover prove.Prover
	mu     sync.Mutex
	proof  prove.Proof
	until  time.Time
}

// Prove implements prove.Prover.
func (k *keptProof) Prove(ctx context.Context) (prove.Proof, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Now().Before(k.until) {
		return k.proof, nil
	}
	proof, err := k.prover.Prove(ctx)
	if err != nil {
		return prove.Proof{}, err
	}
	k.proof, k.until = proof, time.Now().Add(30*time.Second)
	return proof, nil
}

// hops are what is measured. closeAll has to be called, also after an error.
func (f *benchFlags) hops(prover prove.Prover) (hops []hop, closeAll func(), err error) {
	var closers []func()
	closeAll = func() {
		for _, c := range closers {
			c()
		}
	}
	options := []credbroker.Option{credbroker.WithUserAgent("credbroker-bench/" + versionText())}
	if f.client.caFile != "" {
		options = append(options, credbroker.WithCAFile(f.client.caFile))
	}
	if f.client.plaintext {
		options = append(options, credbroker.WithInsecurePlaintext())
	}
	clients := make([]*credbroker.Client, f.concurrency)
	for i := range clients {
		if clients[i], err = credbroker.New(f.client.endpoint, prover, options...); err != nil {
			return nil, closeAll, err
		}
		closers = append(closers, func() { _ = clients[i].Close() })
	}
	hops = append(hops, hop{"broker: credentials", brokerCode, func(ctx context.Context, worker int) error {
		_, err := clients[worker].Credentials(ctx, f.client.role)
		return err
	}})
	if f.redis != "" {
		rdb, err := f.openRedis()
		if err != nil {
			return nil, closeAll, err
		}
		closers = append(closers, func() { _ = rdb.Close() })
		hops = append(hops, hop{"redis: PING", networkCode, func(ctx context.Context, _ int) error { return rdb.Ping(ctx).Err() }})
	}
	if f.minio != "" {
		s3, err := f.openMinIO(clients[0])
		if err != nil {
			return nil, closeAll, err
		}
		hops = append(hops, hop{"minio: GET", s3Code, func(ctx context.Context, _ int) error { return read(ctx, s3, f.bucket, f.key) }})
	}
	return hops, closeAll, nil
}

func (f *benchFlags) openRedis() (*goredis.Client, error) {
	encryption, err := redisTLS(f.redisTLS)
	if err != nil {
		return nil, err
	}
	o := &goredis.Options{Addr: f.redis, Username: f.redisUsername, TLSConfig: encryption, PoolSize: f.concurrency, MaxRetries: -1, DisableIdentity: true}
	if f.redisPasswordFile != "" {
		password, err := secret.ReadFile(f.redisPasswordFile, 4096)
		if err != nil {
			return nil, fmt.Errorf("--redis-password-file: %w", err)
		}
		o.Password = password.Reveal()
	}
	return goredis.NewClient(o), nil
}

func (f *benchFlags) openMinIO(client *credbroker.Client) (*minio.Client, error) {
	at, err := url.Parse(f.minio)
	if err != nil {
		return nil, err
	}
	transport, err := minio.DefaultTransport(at.Scheme == "https")
	if err != nil {
		return nil, err
	}
	transport.MaxIdleConnsPerHost, transport.Proxy = f.concurrency, nil
	return minio.New(at.Host, &minio.Options{
		Creds: credentials.New(client.MinIO(f.client.role)), Secure: at.Scheme == "https", Transport: transport, MaxRetries: 1,
	})
}

// read reads an object to its end.
func read(ctx context.Context, s3 *minio.Client, bucket, key string) error {
	object, err := s3.GetObject(ctx, bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, object)
	return errors.Join(err, object.Close())
}

// hop is one thing that is measured.
type hop struct {
	name string
	// code sorts errors; it returns words of a closed set, or of a grammar.
	code func(error) string
	call func(ctx context.Context, worker int) error
}

// hopResult is what came of it.
type hopResult struct {
	Hop       string           `json:"hop"`
	Calls     int64            `json:"calls"`
	PerSecond float64          `json:"per_second"`
	P50       int64            `json:"p50_us"`
	P99       int64            `json:"p99_us"`
	Max       int64            `json:"max_us"`
	Errors    map[string]int64 `json:"errors"`
}

type benchResult struct {
	Concurrency int         `json:"concurrency"`
	Interrupted bool        `json:"interrupted"`
	Hops        []hopResult `json:"hops"`
}

// measure makes calls for a time, or until ctx ends. Calls under way at the end of the time are waited for; those that ctx's
// end cuts off aren't counted. Memory is the same for any number of calls.
func (h hop) measure(ctx context.Context, concurrency int, d time.Duration) hopResult {
	timer, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var took latencies
	var mu sync.Mutex
	failures := map[string]int64{}
	var workers sync.WaitGroup
	begin := time.Now()
	for worker := range concurrency {
		workers.Go(func() {
			for timer.Err() == nil {
				start := time.Now()
				err := h.call(ctx, worker)
				switch {
				case err == nil:
					took.add(time.Since(start))
				case ctx.Err() != nil:
					return
				default:
					mu.Lock()
					failures[boundedCode(failures, h.code(err))]++
					mu.Unlock()
					select { // what fails at once shall not be hammered
					case <-timer.Done():
					case <-time.After(10 * time.Millisecond):
					}
				}
			}
		})
	}
	workers.Wait()
	return hopResult{
		Hop: h.name, Calls: took.count(), PerSecond: float64(took.count()) / time.Since(begin).Seconds(), Errors: failures,
		P50: took.quantile(0.50).Microseconds(), P99: took.quantile(0.99).Microseconds(), Max: took.max().Microseconds(),
	}
}

// boundedCode is the code, or "other" once there are many.
func boundedCode(seen map[string]int64, code string) string {
	if _, ok := seen[code]; !ok && len(seen) >= 16 {
		return "other"
	}
	return code
}

// brokerCode is the broker's own code of docs/errors.md where there is one.
func brokerCode(err error) string {
	if refusal, ok := errors.AsType[*credbroker.Error](err); ok {
		return string(refusal.Code)
	}
	return networkCode(err)
}

func s3Code(err error) string {
	if code := minio.ToErrorResponse(err).Code; code != "" && harmless.MatchString(code) && len(code) <= 64 {
		return code
	}
	return brokerCode(err)
}

func networkCode(err error) string {
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, credbroker.ErrUnreachable), errors.As(err, &timeout):
		return "unreachable"
	default:
		return "other"
	}
}

func printHops(w io.Writer, results []hopResult) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "hop\tcalls\tper second\tp50\tp99\tmax\terrors\t")
	for _, r := range results {
		var failures []string
		for _, code := range slices.SortedFunc(maps.Keys(r.Errors), func(a, b string) int { return cmp.Compare(r.Errors[b], r.Errors[a]) }) {
			failures = append(failures, fmt.Sprintf("%s %d", code, r.Errors[code]))
		}
		fmt.Fprintf(tw, "%s\t%d\t%.0f\t%s\t%s\t%s\t%s\t\n", r.Hop, r.Calls, r.PerSecond, milliseconds(r.P50), milliseconds(r.P99), milliseconds(r.Max),
			cmp.Or(strings.Join(failures, ", "), "none"))
	}
	_ = tw.Flush()
}

func milliseconds(us int64) string { return fmt.Sprintf("%.2f ms", float64(us)/1000) }
