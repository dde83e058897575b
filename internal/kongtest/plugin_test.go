package kongtest

import (
	"testing"
)

func TestAConsumerPutsAndGets(t *testing.T) {
	w := newWorld(t)
	g := Start(t, Options{Config: w.kong(w.plugin(""))})
	w.ready(g)
	resp, body := Do(t, "PUT", g.URL+"/s3/reports/acme/a.txt", header("alice"), []byte("figures"))
	if resp.StatusCode != 200 {
		t.Fatalf("%s %s", resp.Status, body)
	}
	if resp, body := Do(t, "GET", g.URL+"/s3/reports/acme/a.txt", header("alice"), nil); resp.StatusCode != 200 || body != "figures" {
		t.Errorf("%s %s", resp.Status, body)
	}
	if resp, body := Do(t, "GET", g.URL+"/s3/reports/acme/a.txt", header("bob"), nil); resp.StatusCode != 403 {
		t.Errorf("%s %s", resp.Status, body)
	}
}
