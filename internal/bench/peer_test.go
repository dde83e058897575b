package bench

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

// peerVariable makes this test binary a peer: what a server costs that decides nothing.
const peerVariable = "CREDBROKER_BENCH_PEER"

// Files in the peer's directory: the answers of a real broker, to be given to everybody.
const (
	answerProto = "answer.pb"
	answerJSON  = "answer.json"
)

// noop answers every call with the same message.
type noop struct {
	brokerv1.UnimplementedCredentialBrokerServiceServer
	answer *brokerv1.IssueCredentialsResponse
}

func (n noop) IssueCredentials(context.Context, *brokerv1.IssueCredentialsRequest) (*brokerv1.IssueCredentialsResponse, error) {
	return n.answer, nil
}

// servePeer serves grpc-go and net/http as they come, without options, until the process is killed.
func servePeer(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, answerProto))
	if err != nil {
		return err
	}
	answer := &brokerv1.IssueCredentialsResponse{}
	if err := proto.Unmarshal(data, answer); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(dir, answerJSON))
	if err != nil {
		return err
	}
	var listeners [2]net.Listener
	for i := range listeners {
		if listeners[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return err
		}
	}
	s := grpc.NewServer()
	brokerv1.RegisterCredentialBrokerServiceServer(s, noop{answer: answer})
	failed := make(chan error, 2)
	go func() { failed <- s.Serve(listeners[0]) }()
	go func() {
		failed <- http.Serve(listeners[1], http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(text)
		}))
	}()
	fmt.Println(listeners[0].Addr(), listeners[1].Addr())
	return <-failed
}
