package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/compute/metadata"
)

// clues are what tells that a kind of proof can be had. None costs more than reading a small file, but for googles.
type clues struct {
	// env and file are given to a process: variables of which one is set, a file that is there.
	env  []string
	file string
	// board is a file of what the firmware says of the machine, and says what it has on machines of the platform.
	board string
	says  []string
	// googles asks for Google's metadata server, for half a second.
	googles bool
}

// googleTimeout bounds the search for Google's metadata server, which answers in milliseconds where there is one.
const googleTimeout = 500 * time.Millisecond

// surroundings are where a process finds clues.
type surroundings struct {
	env      func(name string) string
	root     string // of the file system
	onGoogle func(context.Context) bool
}

func here() *surroundings { return &surroundings{os.Getenv, "/", metadata.OnGCEWithContext} }

// given says what of a process's own speaks for a kind; empty if nothing does.
func (s *surroundings) given(c *clues) string {
	for _, name := range c.env {
		if s.env(name) != "" {
			return "$" + name + " is set"
		}
	}
	if c.file != "" {
		if _, err := os.Stat(filepath.Join(s.root, c.file)); err == nil {
			return c.file + " is there"
		}
	}
	return ""
}

const boardFiles = "/sys/class/dmi/id/"

// machine says what of the machine speaks for a kind; empty if nothing does.
func (s *surroundings) machine(ctx context.Context, c *clues) string {
	if c.board != "" {
		data, err := os.ReadFile(filepath.Join(s.root, boardFiles, c.board))
		if text := strings.TrimSpace(string(data)); err == nil && slices.Contains(c.says, text) {
			return boardFiles + c.board + " says " + text
		}
	}
	if c.googles {
		ctx, cancel := context.WithTimeout(ctx, googleTimeout)
		defer cancel()
		if s.onGoogle(ctx) {
			return "Google's metadata server answers"
		}
	}
	return ""
}

// find chooses a kind of proof: file where a token file was given, else the first one that the process was given something for, else
// the first one of the machine. It says why, unless that was said on the command line. A kind that was found and needs more flags is
// an error, and not passed over: what is proven must not depend on what was forgotten.
func (s *surroundings) find(ctx context.Context, f *proofFlags) (k *proofKind, why string, err error) {
	if f.tokenFile != "" {
		return kindNamed("file"), "", nil
	}
	for _, look := range []func(*clues) string{s.given, func(c *clues) string { return s.machine(ctx, c) }} {
		for _, k := range proofKinds {
			why := look(&k.clues)
			if why == "" {
				continue
			}
			missing := k.missing(f)
			if len(missing) == 0 {
				return k, why, nil
			}
			needs := strings.Join(missing, ", ")
			if other := kindNamed(k.instead); other != nil {
				missing := other.missing(f)
				if len(missing) == 0 {
					return other, why, nil
				}
				needs += " (or " + strings.Join(missing, ", ") + " for " + other.name + ")"
			}
			return nil, "", fmt.Errorf("found %s (%s), and it needs %s; --proof chooses another", k.name, why, needs)
		}
	}
	return nil, "", errors.New("found nothing to prove with. Give --token-file, or say with --proof what there is. Looked for:\n" + lookedFor())
}

// lookedFor lists what auto looks for, in order.
func lookedFor() string {
	lines := []string{"  file: --token-file [$" + tokenFileFlag.env + "]"}
	for _, k := range proofKinds {
		var at []string
		for _, name := range k.clues.env {
			at = append(at, "$"+name)
		}
		if k.clues.file != "" {
			at = append(at, k.clues.file)
		}
		if len(at) > 0 {
			lines = append(lines, "  "+k.name+": "+strings.Join(at, ", "))
		}
	}
	for _, k := range proofKinds {
		if k.clues.board != "" {
			lines = append(lines, "  "+k.name+": "+strings.Join(k.clues.says, " or ")+" in "+boardFiles+k.clues.board)
		}
		if k.clues.googles {
			lines = append(lines, "  "+k.name+": Google's metadata server, for "+googleTimeout.String())
		}
	}
	return strings.Join(lines, "\n")
}

func autoHelp() string {
	return "Find what this machine has to prove with, say so on standard error, and print the proof. It is the first of:\n\n" + lookedFor() +
		"\n\nWhat was found and needs a flag that wasn't given is an error. With aws, " + audienceFlag.name + " without " + awsServerIDFlag.name + " means aws-token."
}
