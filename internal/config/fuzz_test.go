package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzParse: no text makes Parse panic, every fault has its line, and what passes passes again.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/faults/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(everyFile))
	f.Add([]byte(twoExchangers))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := Parse("f", data, nil); err != nil {
			faults, ok := errors.AsType[Faults](err)
			if !ok || len(faults) == 0 {
				t.Fatalf("%T: %v", err, err)
			}
			last := 1
			for _, fault := range faults {
				if fault.File != "f" || fault.Line < last || fault.Problem == "" || strings.ContainsAny(fault.String(), "\n\r\x1b") {
					t.Errorf("%q after line %d", fault, last)
				}
				last = fault.Line
			}
			return
		}
		if _, err := Parse("f", data, nil); err != nil {
			t.Errorf("the second time: %v", err)
		}
	})
}
