// Package bench measures the broker against what it is made of, and against the targets that the project set itself. It has
// tests alone: as part of `go test` it only sees that everything still runs; `make bench` measures.
//
// Ours and the peer take turns within one run, on the same machine, under the same load, and their ratio is what counts:
// absolute figures hold for one machine on one day. docs/performance.md says how to read them.
package bench

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
)

var (
	tableFlag    = flag.Bool("table", false, "measure, and print the table")
	resultsFlag  = flag.String("results", "", "with -table: write the results to this file")
	rowsFlag     = flag.String("rows", "", "with -table: measure only these, by name, divided by commas")
	profilesFlag = flag.String("profiles", "", "with -table: write CPU profiles of the broker under load to this directory")
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(peerVariable); dir != "" {
		fmt.Fprintln(os.Stderr, servePeer(dir))
		os.Exit(1)
	}
	code := m.Run()
	brokertest.RemoveBrokerProgram()
	if program.dir != "" {
		_ = os.RemoveAll(program.dir)
	}
	os.Exit(code)
}

// measures are the rows of the table, in its order.
var measures = []struct {
	name    string
	measure func(*stage) []row
}{
	{"grpc", cachedOverGRPC},
	{"http", cachedOverHTTP},
	{"sdks", sdkSurfaces},
	{"sign", cachedSign},
	{"vault", againstVault},
	{"redis", foundInRedis},
	{"cold", cold},
	{"shares", shares},
	{"transit", transitIssuer},
	{"renewals", renewals},
	{"proofs", proofs},
	{"aws", awsProofs},
	{"stampede", stampede},
	{"heap", heap},
	{"idle", idle},
	{"roles", manyRoles},
	{"identities", manyIdentities},
}

func TestTable(t *testing.T) {
	s := &stage{t: t, rounds: 1, spell: 20 * time.Millisecond, full: *tableFlag, idp: brokertest.NewIDP(t)}
	if s.full {
		s.rounds, s.spell = 5, 2*time.Second
	}
	var rows []row
	for _, m := range measures {
		if *rowsFlag == "" || slices.Contains(strings.Split(*rowsFlag, ","), m.name) {
			if s.full {
				fmt.Fprintln(os.Stderr, "measuring:", m.name)
			}
			rows = append(rows, m.measure(s)...)
		}
	}
	if !s.full {
		return
	}
	printTable(os.Stdout, rows)
	if *resultsFlag != "" {
		if err := writeReport(*resultsFlag, s.rounds, rows); err != nil {
			t.Fatal(err)
		}
	}
}
