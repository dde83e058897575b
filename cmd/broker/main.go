// Command broker exchanges proofs of identity for short-lived S3 credentials.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set at build time: -ldflags "-X main.version=v1.2.3".
var version = ""

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run is main without the process: it returns the exit code. 1 means that it didn't work, 2 that it was called wrongly.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if usage, ok := errors.AsType[*usageError](err); ok {
		fmt.Fprintf(stderr, "broker: %v\nSee '%s --help'.\n", usage.error, usage.command)
		return 2
	}
	if text := err.Error(); text != "" {
		fmt.Fprintf(stderr, "broker: %s\n", strings.TrimRight(text, "\n"))
	}
	return 1
}

// usageError is a fault in the command line.
type usageError struct {
	error
	command string
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "broker",
		Short: "Exchange proofs of identity for short-lived S3 credentials",
		Long: `broker takes a proof of identity (a token of your identity provider), decides which role it may use,
and exchanges it for short-lived MinIO credentials. Nobody on the path holds a long-lived key.

Try it on this machine:    broker dev --help
Run it:                    broker serve --config broker.yaml
Use it:                    broker get --role reports --format env`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          help,
	}
	root.AddGroup(
		&cobra.Group{ID: "run", Title: "Run a broker:"},
		&cobra.Group{ID: "check", Title: "Check a configuration:"},
		&cobra.Group{ID: "use", Title: "Get credentials from a broker:"},
	)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return &usageError{err, c.CommandPath()} })
	root.AddCommand(
		newServeCommand(), newDevCommand(), newDevTokenCommand(), newAdminCommand(),
		newCheckConfigCommand(), newCheckPolicyCommand(), newConformanceCommand(), newProbeCommand(),
		newGetCommand(), newCredentialProcessCommand(), newAgentCommand(), newBenchCommand(), newProveCommand(),
		newVersionCommand(),
	)
	asUsageErrors(root)
	return root
}

// help is what a command does that only has subcommands. Without it cobra would take a wrong word for a call for help.
func help(c *cobra.Command, _ []string) error { return c.Help() }

// asUsageErrors makes every complaint about arguments a usageError: the flag hook of cobra sees flags alone.
func asUsageErrors(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return &usageError{err, c.CommandPath()}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		asUsageErrors(sub)
	}
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), "broker", versionText())
			return err
		},
	}
}

// versionText is the version given at build time, or what Go knows of the build.
func versionText() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
