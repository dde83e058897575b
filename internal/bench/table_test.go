package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// row is one line of the table.
type row struct {
	What string `json:"what"`
	// Ours and Peer are medians in Unit; Peer is 0 where there is none.
	Ours float64 `json:"ours"`
	Peer float64 `json:"peer,omitempty"`
	Unit string  `json:"unit"`
	// Value is what is held against the targets: the median of the rounds' ratios of ours to the peer's, or ours where
	// there is no peer. Rounds are the values that it is the median of.
	Value  float64   `json:"value"`
	Rounds []float64 `json:"rounds,omitempty"`
	target
	Verdict string `json:"verdict"`
	// Note says what isn't in the numbers.
	Note string `json:"note,omitempty"`
}

// target is what the project set itself. With AtMost, less is better.
type target struct {
	AtLeast float64 `json:"at_least"`
	Aim     float64 `json:"aim"`
	AtMost  bool    `json:"at_most"`
}

// The verdicts.
const (
	aimMet = "aim"
	noGoal = "no target"
	met    = "met"
	missed = "missed"
	absent = "not measured"
)

func (t target) verdict(value float64) string {
	if t == (target{}) {
		return noGoal
	}
	reaches := func(bound float64) bool {
		if t.AtMost {
			return value <= bound
		}
		return value >= bound
	}
	switch {
	case reaches(t.Aim):
		return aimMet
	case reaches(t.AtLeast):
		return met
	default:
		return missed
	}
}

// compared is the row of rounds in which ours and the peer took turns.
func compared(what, unit string, ours, peer []float64, goal target) row {
	r := row{What: what, Unit: unit, Ours: median(ours), Peer: median(peer), target: goal}
	for i := range ours {
		r.Rounds = append(r.Rounds, ours[i]/peer[i])
	}
	r.Value = median(r.Rounds)
	r.Verdict = goal.verdict(r.Value)
	return r
}

// alone is a row without a peer.
func alone(what, unit string, rounds []float64, goal target) row {
	r := row{What: what, Unit: unit, Ours: median(rounds), Rounds: rounds, target: goal}
	r.Value = r.Ours
	r.Verdict = goal.verdict(r.Value)
	return r
}

func atLeast(least, aim float64) target { return target{AtLeast: least, Aim: aim} }
func atMost(most, aim float64) target   { return target{AtLeast: most, Aim: aim, AtMost: true} }

// report is what is written as JSON.
type report struct {
	Time   time.Time `json:"time"`
	Go     string    `json:"go"`
	System string    `json:"system"`
	CPUs   int       `json:"cpus"`
	Rounds int       `json:"rounds"`
	Rows   []row     `json:"rows"`
}

func writeReport(path string, rounds int, rows []row) error {
	data, err := json.MarshalIndent(report{
		Time: time.Now().UTC().Truncate(time.Second), Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(),
		Rounds: rounds, Rows: rows,
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

func printTable(w io.Writer, rows []row) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "what\tours\tpeer\tratio\tat least\taim\t")
	fmt.Fprintln(tw, "----\t----\t----\t-----\t--------\t---\t")
	for _, r := range rows {
		peer, ratio, least, sign := "-", "-", "", ""
		if r.AtMost {
			sign = "≤ "
		}
		if r.Peer != 0 {
			peer, ratio = amount(r.Peer, r.Unit), fmt.Sprintf("%.2f", r.Value)
		}
		if r.target == (target{}) {
			least = "-\t-"
		} else if r.Peer != 0 || r.Verdict == absent {
			least = fmt.Sprintf("%s%g\t%s%g", sign, r.AtLeast, sign, r.Aim)
		} else {
			least = sign + amount(r.AtLeast, r.Unit) + "\t" + sign + amount(r.Aim, r.Unit)
		}
		ours := amount(r.Ours, r.Unit)
		if r.Verdict == absent {
			ours = "-"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", r.What, ours, peer, ratio, least, strings.TrimSpace(r.Verdict+"  "+r.Note))
	}
	_ = tw.Flush()
}

// amount prints a number with its unit as people say it.
func amount(v float64, unit string) string {
	switch unit {
	case "/s":
		return fmt.Sprintf("%.0f/s", v)
	case "s":
		return time.Duration(v * 1e9).Round(time.Duration(max(1, v*1e6))).String() // three digits or so
	case "bytes":
		if v >= 1e6 {
			return fmt.Sprintf("%.1f MB", v/1e6)
		}
		return fmt.Sprintf("%.2f KB", v/1e3)
	default:
		return fmt.Sprintf("%g%s", v, unit)
	}
}
