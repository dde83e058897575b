package server

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

func TestOneSourceCantTakeAllThereIs(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	s := newSources(3, 2)
	for range 2 {
		if !s.take(a) {
			t.Fatal("below the bounds")
		}
	}
	if s.take(a) {
		t.Error("a third of one source")
	}
	if !s.take(b) {
		t.Error("another source below the bounds")
	}
	if s.take(b) {
		t.Error("a fourth in all")
	}
	s.drop(a)
	if !s.take(a) {
		t.Error("what was dropped keeps its place")
	}
	for _, peer := range []netip.Addr{a, a, b} {
		s.drop(peer)
	}
	if len(s.open) != 0 || s.total != 0 {
		t.Errorf("still counted: %d, %v", s.total, s.open)
	}
}

func TestHostOf(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.1:5": "192.0.2.1", "[::ffff:192.0.2.1]:5": "192.0.2.1",
		"[2001:db8:1:2:3:4:5:6]:5": "2001:db8:1:2::", "[fe80::1%25lo]:5": "fe80::",
	} {
		addr := net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddrPort(zoneless(text)).Addr(), 5))
		if got := hostOf(addr); got.String() != want {
			t.Errorf("%s: %s", text, got)
		}
	}
	if hostOf(&net.UnixAddr{Name: "x", Net: "unix"}).IsValid() {
		t.Error("a Unix socket has a host")
	}
}

func zoneless(s string) string {
	if s == "[fe80::1%25lo]:5" {
		return "[fe80::1%lo]:5"
	}
	return s
}

func TestConnectionsOfOneHostAreBounded(t *testing.T) {
	l, err := Listen("127.0.0.1:0", TLSFiles{}, ListenOptions{MaxConns: 4, MaxConnsPerHost: 1})
	if err != nil {
		t.Fatal(err)
	}
	o, _ := testOptions()
	address := serving(t, NewHTTP(l, &fakeBroker{}, fakeDocuments{}, o))
	answered := func(conn net.Conn) bool {
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = conn.Write([]byte("HEAD /jwks HTTP/1.1\r\nHost: b\r\n\r\n"))
		_, err := conn.Read(make([]byte, 4096))
		return err == nil
	}
	first, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if !answered(first) {
		t.Fatal("the first isn't served")
	}
	second, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if answered(second) {
		t.Error("a second connection of one host is served")
	}
	elsewhere, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Close()
	if !answered(elsewhere) {
		t.Error("another host isn't served")
	}
}

func TestStreamsAreCountedFromTheirFirstFrame(t *testing.T) {
	admit := admitStreams(time.Second)
	from := func(ip string) context.Context {
		return peer.NewContext(context.Background(), &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(ip), Port: 5}})
	}
	info := &tap.Info{FullMethodName: "/broker.v1.CredentialBrokerService/ListRoles"}
	var ends []context.CancelFunc
	for range maxOpenStreams / 2 {
		ctx, end := context.WithCancel(from("192.0.2.1"))
		ends = append(ends, end)
		timed, err := admit(ctx, info)
		if err != nil {
			t.Fatal(err)
		}
		if at, ok := timed.Deadline(); !ok || time.Until(at) > readTimeout+time.Second {
			t.Fatalf("deadline %s, %v", at, ok)
		}
	}
	if _, err := admit(from("192.0.2.1"), info); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one more of the same host: %v", err)
	}
	// grpc-go would keep the timer of one with a deadline if the tap refused it: it is let in, and refused at once.
	hour, stop := context.WithTimeout(from("192.0.2.1"), time.Hour)
	defer stop()
	if ctx, err := admit(hour, info); err != nil {
		t.Errorf("one more with a deadline: %v", err)
	} else if at, _ := ctx.Deadline(); time.Until(at) > refusalTime || !admittedOf(ctx).refused {
		t.Errorf("one more with a deadline has %s, %+v", time.Until(at), admittedOf(ctx))
	}
	watch, end := context.WithCancel(from("192.0.2.2"))
	defer end()
	if ctx, err := admit(watch, &tap.Info{FullMethodName: healthpb.Health_Watch_FullMethodName}); err != nil {
		t.Errorf("another host: %v", err)
	} else if _, ok := ctx.Deadline(); ok {
		t.Error("a health watch has a deadline")
	}
	for _, end := range ends {
		end()
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		if _, err := admit(from("192.0.2.1"), info); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("streams that ended keep their places")
		}
	}
}

// A call whose message never ends is let go at its deadline.
func TestACallThatNeverFinishesItsMessageEnds(t *testing.T) {
	o, _ := testOptions()
	o.RequestTimeout = 100 * time.Millisecond
	address := serving(t, NewGRPC(listenLoopback(t, TLSFiles{}), &fakeBroker{}, alwaysReady, o))
	for _, method := range []string{"/broker.v1.CredentialBrokerService/ListRoles", healthpb.Health_Check_FullMethodName, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/no/such"} {
		endsUnfinished(t, address, method)
	}
}

func endsUnfinished(t *testing.T, address, method string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	_ = framer.WriteSettings()
	var block headerBlock
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", method}, {":authority", "b"}, {"content-type", "application/grpc"}, {"te", "trailers"}} {
		block.add(h[0], h[1])
	}
	_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.bytes(), EndHeaders: true})
	_ = framer.WriteData(1, false, []byte{0, 0, 0, 4, 0, 'x'}) // 1,024 bytes are announced
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("the stream isn't ended: %v", err)
		}
		if h := frame.Header(); h.StreamID == 1 && (h.Type == http2.FrameRSTStream || h.Flags.Has(http2.FlagHeadersEndStream)) {
			return
		}
	}
}

// headerBlock collects an HPACK block.
type headerBlock struct {
	data []byte
	enc  *hpack.Encoder
}

func (b *headerBlock) Write(p []byte) (int, error) {
	b.data = append(b.data, p...)
	return len(p), nil
}

func (b *headerBlock) add(name, value string) {
	if b.enc == nil {
		b.enc = hpack.NewEncoder(b)
	}
	_ = b.enc.WriteField(hpack.HeaderField{Name: name, Value: value})
}

func (b *headerBlock) bytes() []byte { return b.data }

func TestHealthWatchesAreBounded(t *testing.T) {
	conn, _ := grpcServer(t, &fakeBroker{}, alwaysReady)
	client := healthpb.NewHealthClient(conn)
	for range maxWatches {
		w, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	w, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err == nil {
		_, err = w.Recv()
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one more: %v", err)
	}
	if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("Check meanwhile: %v", errors.Unwrap(err))
	}
}

// refusing is a server of which one host has as many streams as it may, until the test ends.
func refusing(t *testing.T) (address string) {
	o, _ := testOptions()
	address = serving(t, NewGRPC(listenLoopback(t, TLSFiles{}), &fakeBroker{}, alwaysReady, o))
	for range maxOpenStreams/2/maxStreams + 1 { // some more than there may be: whoever comes in between takes none of them away
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		framer := http2.NewFramer(conn, conn)
		_, _ = conn.Write([]byte(http2.ClientPreface))
		_ = framer.WriteSettings()
		var block headerBlock
		for i := range maxStreams {
			block.data = block.data[:0]
			for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", healthpb.Health_Watch_FullMethodName}, {":authority", "b"}, {"content-type", "application/grpc"}, {"te", "trailers"}} {
				block.add(h[0], h[1])
			}
			if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: block.bytes(), EndHeaders: true}); err != nil {
				t.Fatal(err)
			}
		}
		go io.Copy(io.Discard, conn) //nolint:errcheck // until it is closed
	}
	return address
}

func TestACallBeyondTheBoundIsToldSo(t *testing.T) {
	address := refusing(t)
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := brokerv1.NewCredentialBrokerServiceClient(conn)
	deadline := time.Now().Add(10 * time.Second)
	for _, with := range []func() (context.Context, context.CancelFunc){
		func() (context.Context, context.CancelFunc) { return t.Context(), func() {} },
		func() (context.Context, context.CancelFunc) { return context.WithTimeout(t.Context(), time.Hour) },
	} {
		for {
			ctx, cancel := with()
			_, err := client.ListRoles(ctx, &brokerv1.ListRolesRequest{Proof: proofOf("a")})
			cancel()
			if status.Code(err) == codes.ResourceExhausted {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("got %v", err)
			}
		}
	}
	other := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	elsewhere, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return other.DialContext(ctx, "tcp", addr) }))
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Close()
	if _, err := brokerv1.NewCredentialBrokerServiceClient(elsewhere).ListRoles(t.Context(), &brokerv1.ListRolesRequest{Proof: proofOf("a")}); err != nil {
		t.Errorf("another host: %v", err)
	}
}

// Refused streams leave nothing behind, whatever time their peer gives them.
func TestRefusedStreamsLeaveNothingBehind(t *testing.T) {
	address := refusing(t)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	framer := http2.NewFramer(conn, conn)
	_, _ = conn.Write([]byte(http2.ClientPreface))
	_ = framer.WriteSettings()
	answered := make(chan struct{}, 1<<16)
	go func() {
		defer close(answered)
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				return
			}
			if h := frame.Header(); h.Type == http2.FrameHeaders && h.Flags.Has(http2.FlagHeadersEndStream) {
				answered <- struct{}{}
			}
		}
	}()
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	time.Sleep(100 * time.Millisecond) // what the other connections sent is on its way
	before := heap()
	const streams = 20_000
	var block headerBlock
	for i := range streams {
		block.data = block.data[:0]
		for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/broker.v1.CredentialBrokerService/ListRoles"}, {":authority", "b"}, {"content-type", "application/grpc"}, {"te", "trailers"}, {"grpc-timeout", "99999999H"}} {
			block.add(h[0], h[1])
		}
		if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: block.bytes(), EndHeaders: true, EndStream: true}); err != nil {
			t.Fatal(err)
		}
		if i >= 100 { // fewer than a connection may have
			<-answered
		}
	}
	for range 100 {
		<-answered
	}
	if left := heap() - before; left > streams*50 { // a timer and its context take some 260 bytes
		t.Errorf("%d bytes are left of %d streams", left, streams)
	}
}
