package deploytest

import (
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/policy/iam"
)

// document is a MinIO policy, which unlike a session policy may hold admin actions.
type document struct {
	Version   string
	Statement []struct {
		Sid, Effect      string
		Action, Resource []string
	}
}

func policyDocument(t *testing.T, name string) document {
	t.Helper()
	var doc document
	if err := json.Unmarshal([]byte(read(t, name)), &doc, json.RejectUnknownMembers(true)); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return doc
}

func TestEveryConfigurationIsSoundAndItsPoliciesExist(t *testing.T) {
	configs := slices.Concat(files(t, "deploy", "broker.yaml"), files(t, "scripts/demo", "broker.yaml"))
	if !slices.Contains(configs, exampleConfig) || !slices.Contains(configs, composeConfig) {
		t.Fatalf("found %q alone", configs)
	}
	for _, name := range configs {
		cfg := load(t, name)
		compile(t, cfg)
		dirs := []string{policyDir}
		if strings.HasPrefix(name, "scripts/demo/") { // demos share some
			dirs = []string{filepath.ToSlash(filepath.Dir(name)), "scripts/demo"}
		}
		for _, e := range cfg.Exchangers {
			for _, p := range e.AllowedPolicies {
				if !slices.ContainsFunc(dirs, func(dir string) bool {
					_, err := os.Stat(inModule(t, dir+"/"+p+".json"))
					return err == nil
				}) {
					t.Errorf("%s: there is no %s.json in %q", name, p, dirs)
				}
			}
		}
	}
}

func TestPoliciesAreDocumentsThatDenyPermanentKeys(t *testing.T) {
	cfg := load(t, exampleConfig)
	for _, name := range files(t, policyDir, "*.json") {
		doc := policyDocument(t, name)
		if doc.Version != iam.Version {
			t.Errorf("%s: Version %q", name, doc.Version)
		}
		p := strings.TrimSuffix(path.Base(name), ".json")
		operators := slices.Contains(cfg.Exchangers["minio-operators"].AllowedPolicies, p)
		if !operators && !slices.Contains(cfg.Exchangers["minio"].AllowedPolicies, p) {
			t.Errorf("%s: no exchanger of %s may ask for it", name, exampleConfig)
		}
		var denied []string
		for _, s := range doc.Statement {
			switch {
			case s.Effect == "Deny":
				denied = append(denied, s.Action...)
			case s.Effect != "Allow":
				t.Errorf("%s: Effect %q", name, s.Effect)
			case !operators && slices.ContainsFunc(s.Action, func(a string) bool { return !strings.HasPrefix(a, "s3:") }):
				t.Errorf("%s: an application's policy allows %q", name, s.Action)
			}
		}
		if want := "admin:*"; !operators && !slices.Contains(denied, want) {
			t.Errorf("%s: it doesn't deny %s", name, want)
		}
		if want := "admin:CreateServiceAccount"; operators && !slices.Contains(denied, want) {
			t.Errorf("%s: it doesn't deny %s", name, want)
		}
	}
}

func TestOperatorsAreApart(t *testing.T) {
	cfg := load(t, exampleConfig)
	for _, p := range cfg.Exchangers["minio-operators"].AllowedPolicies {
		if slices.Contains(cfg.Exchangers["minio"].AllowedPolicies, p) {
			t.Errorf("%s is allowed for applications too", p)
		}
	}
	for _, role := range cfg.Roles {
		if role.Exchanger == "minio-operators" && (!role.TTL.WithinProof || role.TTL.Max > 15*time.Minute) {
			t.Errorf("role %s: %+v", role.Name, role.TTL)
		}
	}
	for name, e := range cfg.Exchangers {
		if e.Dangerous != (name == "minio-operators") || e.InsecurePlaintext {
			t.Errorf("an example exchanger for applications is dangerous, or one in plaintext: %s %+v", name, e)
		}
	}
}

// claim is what a comment of the example says: "#   alice (finance)   allowed, reports/alice/".
type claim struct {
	identity, role, verdict string
}

var (
	claimLine = regexp.MustCompile(`^  # {6}([a-z-]+)(?: \([^)]*\))? +(allowed|denied)\b`)
	roleLine  = regexp.MustCompile(`^  - name: ([a-z0-9_-]+)$`)
)

// claims collects the comments before each role.
func claims(t *testing.T) []claim {
	_, roles, found := strings.Cut(read(t, exampleConfig), "\nroles:\n")
	if !found {
		t.Fatal("no roles")
	}
	var all []claim
	done := 0
	for line := range strings.Lines(roles) {
		line = strings.TrimRight(line, "\n")
		if m := claimLine.FindStringSubmatch(line); m != nil {
			all = append(all, claim{identity: m[1], verdict: m[2]})
		}
		if m := roleLine.FindStringSubmatch(line); m != nil {
			if done == len(all) {
				t.Errorf("role %s: no comment says who is allowed", m[1])
			}
			for ; done < len(all); done++ {
				all[done].role = m[1]
			}
		}
	}
	return all
}

func TestExampleIdentitiesGetWhatTheCommentsSay(t *testing.T) {
	rules := compile(t, load(t, exampleConfig))
	unused := map[string]bool{}
	for _, name := range files(t, "deploy/policy/identities", "*.json") {
		unused[strings.TrimSuffix(path.Base(name), ".json")] = true
	}
	all := claims(t)
	if len(all) < 10 {
		t.Fatalf("%d claims found in the comments", len(all))
	}
	for _, c := range all {
		delete(unused, c.identity)
		id := identity(t, "deploy/policy/identities/"+c.identity+".json")
		e := rules.Explain(id, c.role)
		_, err := rules.Resolve(id, policy.Wanted{Role: c.role, Now: time.Now()})
		if want := c.verdict == "allowed"; e.Allowed != want || (err == nil) != want {
			t.Errorf("%s, role %s: %s says the comment; Explain says %v, Resolve %v: %+v", c.identity, c.role, c.verdict, e.Allowed, err, e.Findings)
		}
	}
	for name := range unused {
		t.Errorf("identities/%s.json: no comment speaks of it", name)
	}
}

func TestExampleSessionPoliciesKeepToTheCallersFolder(t *testing.T) {
	rules := compile(t, load(t, exampleConfig))
	for _, c := range []struct {
		identity, role, action, resource string
		want                             iam.Decision
	}{
		{"alice", "reports", "s3:PutObject", "arn:aws:s3:::reports/alice/q3.txt", iam.Allowed},
		{"alice", "reports", "s3:PutObject", "arn:aws:s3:::reports/bob/q3.txt", iam.ImplicitDeny},
		{"alice", "reports", "s3:GetObject", "arn:aws:s3:::reports/alicea/q3.txt", iam.ImplicitDeny},
		{"alice", "reports", "s3:ListBucket", "arn:aws:s3:::reports/", iam.ImplicitDeny}, // without the prefix
		{"ci-main", "publish-website", "s3:PutObject", "arn:aws:s3:::artifacts/acme/website/v1.tgz", iam.Allowed},
		{"ci-main", "publish-website", "s3:PutObject", "arn:aws:s3:::artifacts/acme/other/v1.tgz", iam.ImplicitDeny},
		{"ci-main", "publish-website", "s3:DeleteObject", "arn:aws:s3:::artifacts/acme/website/v1.tgz", iam.ImplicitDeny},
	} {
		grant, err := rules.Resolve(identity(t, "deploy/policy/identities/"+c.identity+".json"), policy.Wanted{Role: c.role, Now: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		doc, err := iam.Parse(grant.SessionPolicy)
		if err != nil {
			t.Fatal(err)
		}
		if got := doc.Evaluate(c.action, c.resource, nil); got != c.want {
			t.Errorf("%s, role %s: %s on %s: decision %d, expected %d", c.identity, c.role, c.action, c.resource, got, c.want)
		}
	}
}

func TestExampleIdentitiesAreOfConfiguredIssuers(t *testing.T) {
	attributes := map[string][]string{}
	for _, i := range load(t, exampleConfig).Issuers {
		attributes[i.Issuer] = slices.Collect(maps.Keys(i.Attributes))
	}
	for _, name := range files(t, "deploy/policy/identities", "*.json") {
		id := identity(t, name)
		known, ok := attributes[id.Issuer]
		if !ok {
			t.Errorf("%s: issuer %s isn't configured", name, id.Issuer)
		}
		for attr := range id.Attrs {
			if !slices.Contains(known, attr) {
				t.Errorf("%s: the issuer is configured without the attribute %s", name, attr)
			}
		}
	}
}
