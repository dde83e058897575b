package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/credbroker/credbroker/internal/brokertest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	brokertest.RemoveBrokerProgram()
	os.Exit(code)
}

// TestScripts runs the command line as the scripts of testdata/script say.
func TestScripts(t *testing.T) {
	broker := brokertest.BrokerProgram(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("BROKER", broker)
			return nil
		},
	})
}
