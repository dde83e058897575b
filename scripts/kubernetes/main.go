// The program kube-apiserver is Kubernetes' own API server with the etcd that it needs in the same process, for tests.
// Its arguments are the API server's, but for --etcd-servers. etcd keeps its data and its socket in the working directory and
// listens nowhere else.
package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	"k8s.io/component-base/version/verflag"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	command := app.NewAPIServerCommand()
	serve := command.RunE
	command.RunE = func(cmd *cobra.Command, args []string) error {
		verflag.PrintAndExitIfRequested()
		server, err := startEtcd()
		if err != nil {
			return fmt.Errorf("etcd: %w", err)
		}
		defer server.Close()
		if err := cmd.Flags().Set("etcd-servers", server.Config().ListenClientUrls[0].String()); err != nil {
			return err
		}
		return serve(cmd, args)
	}
	os.Exit(cli.Run(command))
}

// startEtcd returns once etcd serves.
func startEtcd() (*embed.Etcd, error) {
	config := embed.NewConfig()
	config.Dir = "etcd"
	// A relative path, for a socket's has to be short.
	config.ListenClientUrls = []url.URL{{Scheme: "unix", Host: "etcd.sock"}}
	// It is alone: what it tells others to call it by stays as it is by default, and nobody calls.
	config.ListenPeerUrls = nil
	config.LogLevel = "error" // it warns of every request
	// Data survives the process all the same, though not the machine.
	config.UnsafeNoFsync = true
	server, err := embed.StartEtcd(config)
	if err != nil {
		return nil, err
	}
	select {
	case <-server.Server.ReadyNotify():
		return server, nil
	case err := <-server.Err():
		return nil, err
	case <-time.After(time.Minute):
		return nil, errors.New("not ready within a minute")
	}
}
