package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/credbroker/credbroker/internal/conformance"
)

func newConformanceCommand() *cobra.Command {
	var f conformanceFlags
	c := &cobra.Command{
		Use:     "conformance",
		GroupID: "check",
		Short:   "Check what an endpoint of credentials answers to SDKs and to bad input",
		Long: `conformance asks an endpoint what SDKs ask, and what they mustn't: whether answers have the protocol's shape, errors their codes,
and bad input is refused. The endpoint may be a broker's, an agent's or anyone else's. It exits with 1 if a check fails.

  broker conformance --surface sts --endpoint https://broker.internal:8443/sts --token-file token --role reports
  broker conformance --surface container --endpoint http://127.0.0.1:8450/v1/container-credentials/reports --token-file /run/credbroker-agent/token
  broker conformance --surface oauth --endpoint https://broker.internal:8443/oauth/token --token-file token --role reports

It makes some twenty calls, some of which get credentials; it prints none. An issuer whose tokens are good for one use is out of its reach.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	flags := c.Flags()
	flags.StringVar(&f.surface, "surface", "", "sts, container or oauth")
	flags.StringVar(&f.endpoint, "endpoint", "", "URL that a client would be given; for container, with the role")
	flags.StringVar(&f.tokenFile, "token-file", "", "file of a token that the endpoint gives credentials for")
	flags.StringVar(&f.role, "role", "", "role to ask for, with sts (RoleArn) and oauth (audience)")
	flags.StringVar(&f.caFile, "ca-file", "", "PEM file of the CA that the endpoint's certificate comes from; the system's if not given")
	flags.StringVar(&f.format, "format", "table", "table or json")
	_ = c.RegisterFlagCompletionFunc("surface", cobra.FixedCompletions([]string{"sts", "container", "oauth"}, cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

type conformanceFlags struct{ surface, endpoint, tokenFile, role, caFile, format string }

func (f *conformanceFlags) check() (*url.URL, error) {
	var faults []error
	switch f.surface {
	case "sts", "oauth":
		if f.role == "" {
			faults = append(faults, fmt.Errorf("--role is needed with --surface %s", f.surface))
		}
	case "container":
	default:
		faults = append(faults, fmt.Errorf("--surface is %.32q; it can be sts, container or oauth", f.surface))
	}
	at, err := url.Parse(f.endpoint)
	if err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Hostname() == "" || at.User != nil || at.RawQuery != "" || at.Fragment != "" {
		faults = append(faults, errors.New("--endpoint must be a URL such as https://broker.internal:8443/sts"))
	} else if at.Scheme == "http" && !loopback(at.Hostname()) && f.surface != "container" {
		faults = append(faults, errors.New("--endpoint is http:// beyond this machine: whoever is on the way could read the token"))
	}
	if f.tokenFile == "" {
		faults = append(faults, errors.New("--token-file is needed"))
	}
	if f.format != "table" && f.format != "json" {
		faults = append(faults, fmt.Errorf("--format is %.32q; it can be table or json", f.format))
	}
	return at, errors.Join(faults...)
}

func (f *conformanceFlags) run(c *cobra.Command) error {
	at, err := f.check()
	if err != nil {
		return &usageError{err, c.CommandPath()}
	}
	token, err := os.ReadFile(f.tokenFile)
	if err != nil {
		return err
	}
	if token = bytes.TrimRight(token, "\r\n"); len(token) == 0 {
		return fmt.Errorf("%s is empty", f.tokenFile)
	}
	if at.Path == "" {
		at.Path = "/"
	}
	client, err := wireClient(f.caFile)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	results := conformance.Run(c.Context(), &conformance.Target{
		Endpoint: at, Surface: conformance.Surface(f.surface), Token: string(token), Role: f.role, Client: client,
	})
	if f.format == "json" {
		e := json.NewEncoder(c.OutOrStdout())
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		err = e.Encode(results)
	} else {
		err = printResults(c.OutOrStdout(), results)
	}
	failed := 0
	for _, r := range results {
		if !r.OK {
			failed++
		}
	}
	switch {
	case err != nil:
		return err
	case c.Context().Err() != nil:
		return c.Context().Err()
	case failed > 0:
		return fmt.Errorf("%d of %d checks failed", failed, len(results))
	}
	return nil
}

// wireClient is an HTTP/1.1 client that neither follows redirects nor asks a proxy.
func wireClient(caFile string) (*http.Client, error) {
	transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no PEM certificate", caFile)
		}
		transport.TLSClientConfig.RootCAs = roots
	}
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, nil
}

func printResults(w io.Writer, results []conformance.Result) error {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "CHECK\tRESULT\tSAW\tEXPECTED\tSOURCE")
	for _, r := range results {
		word := "pass"
		if !r.OK {
			word = "FAIL"
		}
		fmt.Fprintln(table, strings.Join([]string{r.ID, word, r.Saw, r.Expected, r.Source}, "\t"))
	}
	return table.Flush()
}
