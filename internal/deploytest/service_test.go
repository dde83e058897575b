package deploytest

import (
	"net"
	"net/url"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/config"
)

const dockerfile, unitFile, composeFile = "Dockerfile", "deploy/systemd/credbroker.service", "deploy/compose/compose.yaml"

// named are the files that a configuration has the broker read.
func named(cfg *config.Config) []string {
	l := cfg.Listeners
	all := []string{
		l.GRPC.TLS.CertFile, l.GRPC.TLS.KeyFile, l.HTTP.TLS.CertFile, l.HTTP.TLS.KeyFile, cfg.Audit.FingerprintKeyFile,
	}
	for _, e := range cfg.Exchangers {
		all = append(all, e.CAFile)
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(f string) bool { return f == "" })
}

func duration(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// stops checks that whoever stops the broker waits for longer than the broker takes.
func stops(t *testing.T, cfg *config.Config, patience time.Duration) {
	t.Helper()
	if least := cfg.Shutdown.Drain + cfg.Shutdown.Deadline; patience <= least {
		t.Errorf("the broker is given %s to stop; it may take %s", patience, least)
	}
}

func TestUnitFitsTheExample(t *testing.T) {
	unit := settings(read(t, unitFile))
	const credentials = "/run/credentials/credbroker.service"
	var environ []string
	for _, e := range unit["Environment"] {
		environ = append(environ, strings.ReplaceAll(e, "%d", credentials))
	}
	cfg := load(t, exampleConfig, environ...) // a misspelt variable is a fault

	if want := []string{"/usr/local/bin/broker serve --config /etc/credbroker/broker.yaml"}; !slices.Equal(unit["ExecStart"], want) {
		t.Errorf("ExecStart %q", unit["ExecStart"])
	}
	for name, want := range map[string]string{
		"Type": "exec", "LimitCORE": "0", "RuntimeDirectoryMode": "0700", "LogsDirectoryMode": "0700", "ExecReload": "/bin/kill -HUP $MAINPID",
		"RuntimeDirectory": strings.TrimPrefix(path.Dir(cfg.Listeners.Admin.Socket), "/run/"),
		"LogsDirectory":    strings.TrimPrefix(path.Dir(cfg.Audit.Path), "/var/log/"),
	} {
		if got := unit[name]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s=%q, expected %q", name, got, want)
		}
	}
	stops(t, cfg, duration(t, unit["TimeoutStopSec"][0]))

	loaded := map[string]bool{}
	for _, l := range unit["LoadCredential"] {
		name, source, _ := strings.Cut(l, ":")
		if path.Base(source) != name || path.Dir(source) != "/etc/credbroker" {
			t.Errorf("LoadCredential=%s", l)
		}
		loaded[credentials+"/"+name] = true
	}
	for _, f := range named(cfg) {
		secret := strings.HasSuffix(f, ".key")
		if secret && !loaded[f] {
			t.Errorf("%s is secret and isn't handed over by LoadCredential", f)
		}
		if strings.HasPrefix(f, credentials) && !loaded[f] {
			t.Errorf("nothing loads %s", f)
		}
	}
	if !strings.Contains(read(t, "deploy/systemd/credbroker.logrotate"), "\n"+cfg.Audit.Path+" {") {
		t.Errorf("logrotate doesn't know %s", cfg.Audit.Path)
	}
}

// The agent's unit starts when there are credentials, waits for the broker for as long as it takes, and holds back what the broker's unit does.
func TestAgentsUnit(t *testing.T) {
	unit, brokers := settings(read(t, "deploy/systemd/credbroker-agent.service")), settings(read(t, unitFile))
	for name, want := range map[string]string{
		"Type": "notify", "TimeoutStartSec": "infinity", "DynamicUser": "yes", "CapabilityBoundingSet": "", "UMask": "0077", "EnvironmentFile": "/etc/credbroker/agent.env",
		"ExecStart": "/usr/local/bin/broker agent --listen 127.0.0.1:8450 --authorization-file /etc/credbroker/agent.token",
	} {
		if got := unit[name]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s=%q, expected %q", name, got, want)
		}
	}
	for name, want := range brokers {
		if strings.HasPrefix(name, "Protect") || strings.HasPrefix(name, "Restrict") || strings.HasPrefix(name, "SystemCall") || name == "LimitCORE" || name == "MemorySwapMax" {
			if !slices.Equal(unit[name], want) {
				t.Errorf("%s=%q; the broker's has %q", name, unit[name], want)
			}
		}
	}
	steps := read(t, "docs/agent.md")
	for _, file := range []string{unit["EnvironmentFile"][0], "/etc/credbroker/agent.token", "groupadd --system " + unit["SupplementaryGroups"][0]} {
		if !strings.Contains(steps, file) {
			t.Errorf("docs/agent.md doesn't make %s", file)
		}
	}
}

// composition is what these tests look at of a compose file.
type composition struct {
	Services map[string]struct {
		User        string
		ReadOnly    bool     `yaml:"read_only"`
		CapDrop     []string `yaml:"cap_drop"`
		SecurityOpt []string `yaml:"security_opt"`
		Build       struct{ Context, Dockerfile string }
		Command     []string
		Ports       []string
		Tmpfs       []string
		Environment map[string]string
		Volumes     []struct {
			Type, Source, Target string
			ReadOnly             bool `yaml:"read_only"`
		}
		Secrets     []struct{ Source, Target string }
		StopGrace   string `yaml:"stop_grace_period"`
		Healthcheck struct{ Test []string }
	}
	Secrets map[string]struct{ File string }
}

func composed(t *testing.T) composition {
	t.Helper()
	var c composition
	if err := yaml.Unmarshal([]byte(read(t, composeFile)), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestComposeFitsItsBroker(t *testing.T) {
	c, cfg := composed(t), load(t, composeConfig)
	broker := c.Services["broker"]
	if want := []string{"serve", "--config", "/etc/credbroker/broker.yaml"}; !slices.Equal(broker.Command, want) {
		t.Errorf("command %q", broker.Command)
	}
	stops(t, cfg, duration(t, broker.StopGrace))

	mounted := map[string]bool{}
	for _, v := range broker.Volumes {
		mounted[v.Target] = v.ReadOnly
	}
	for _, s := range broker.Secrets {
		mounted["/run/secrets/"+s.Target] = true
	}
	for _, f := range append(named(cfg), "/etc/credbroker/broker.yaml") {
		if !mounted[f] {
			t.Errorf("%s isn't mounted read-only", f)
		}
		if strings.HasSuffix(f, ".key") && path.Dir(f) != "/run/secrets" {
			t.Errorf("%s is a secret, and no secret of compose", f)
		}
	}
	var ports []string
	for _, address := range []string{cfg.Listeners.HTTP.Address, cfg.Listeners.GRPC.Address} {
		_, port, _ := net.SplitHostPort(address)
		ports = append(ports, "127.0.0.1:"+port+":"+port)
	}
	if !slices.Equal(broker.Ports, ports) {
		t.Errorf("ports %q, expected %q", broker.Ports, ports)
	}
	if len(broker.Tmpfs) != 1 || !strings.HasPrefix(broker.Tmpfs[0], path.Dir(cfg.Listeners.Admin.Socket)+":") {
		t.Errorf("tmpfs %q has no place for %s", broker.Tmpfs, cfg.Listeners.Admin.Socket)
	}
	for _, raw := range []string{cfg.Issuer.URL, cfg.Exchangers["minio"].Endpoint} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		service, ok := c.Services[u.Hostname()]
		if !ok || u.Scheme != "https" || !slices.Contains(service.Ports, "127.0.0.1:"+u.Port()+":"+u.Port()) {
			t.Errorf("%s is the address of no service", raw)
		}
		if !strings.Contains(read(t, "deploy/compose/certs.sh"), "\nissue "+u.Hostname()+" ") {
			t.Errorf("certs.sh makes no certificate for %s", u.Hostname())
		}
	}
}

func TestComposeServicesAreHardened(t *testing.T) {
	for name, s := range composed(t).Services {
		if !strings.HasPrefix(s.User, "${SERVICE_USER:?") || !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s: %+v", name, s)
		}
		for _, v := range s.Volumes {
			if !v.ReadOnly && v.Target != "/data" {
				t.Errorf("%s: %s is writable", name, v.Target)
			}
		}
		for variable := range s.Environment {
			if strings.Contains(variable, "SECRET") || strings.Contains(variable, "PASSWORD") {
				t.Errorf("%s: %s is in the environment; expected a file", name, variable)
			}
		}
	}
}

func TestComposeFilesAreThereOrMade(t *testing.T) {
	c := composed(t)
	var sources []string
	for _, s := range c.Services {
		for _, v := range s.Volumes {
			sources = append(sources, v.Source)
		}
		for _, secret := range s.Secrets {
			if c.Secrets[secret.Source].File == "" {
				t.Errorf("secret %s has no file", secret.Source)
			}
		}
		sources = append(sources, path.Join(s.Build.Context, s.Build.Dockerfile))
	}
	for _, s := range c.Secrets {
		sources = append(sources, s.File)
	}
	all := files(t, ".", "*")
	scripts, ignored := read(t, "deploy/compose/setup.sh")+read(t, "deploy/compose/certs.sh"), read(t, "deploy/compose/.gitignore")
	for _, s := range sources {
		file := path.Join("deploy/compose", s)
		there := slices.ContainsFunc(all, func(f string) bool { return f == file || strings.HasPrefix(f, file+"/") })
		top, _, _ := strings.Cut(strings.TrimPrefix(s, "./"), "/")
		made := strings.Contains(scripts, path.Base(s)) && strings.Contains(ignored, "\n/"+top+"/\n")
		if !there && !made {
			t.Errorf("%s is neither in the repository nor made by setup.sh and ignored by git", s)
		}
	}
}

func TestDockerfile(t *testing.T) {
	text := read(t, dockerfile)
	stages := strings.Split(text, "\nFROM ")
	last := stages[len(stages)-1]
	for _, want := range []string{"scratch\n", "\nUSER 65532:65532\n", "\nEXPOSE 9443 8443\n", `ENTRYPOINT ["/usr/local/bin/broker"]`, "/etc/ssl/certs/ca-certificates.crt"} {
		if !strings.Contains(last, want) {
			t.Errorf("the last stage lacks %q", want)
		}
	}
	for _, want := range []string{"CGO_ENABLED=0", "-trimpath", `-ldflags "-X main.version=${VERSION}"`, "./cmd/broker"} {
		if !strings.Contains(text, want) {
			t.Errorf("the build lacks %q", want)
		}
	}
	if !strings.Contains(read(t, "cmd/broker/main.go"), "\nvar version = ") {
		t.Error("there is no main.version to set")
	}
	cfg := load(t, exampleConfig)
	if want := strings.Join(append([]string{"EXPOSE"}, portsOf(cfg)...), " "); !strings.Contains(last, "\n"+want+"\n") {
		t.Errorf("expected %s", want)
	}
	all := files(t, ".", "*")
	for _, m := range regexp.MustCompile(`(?m)^COPY ([^-\n].*) \S+$`).FindAllStringSubmatch(text, -1) {
		for source := range strings.FieldsSeq(m[1]) {
			copied := func(f string) bool {
				matches, _ := path.Match(source, f)
				return matches || strings.HasPrefix(f, source+"/")
			}
			if !slices.ContainsFunc(all, copied) {
				t.Errorf("COPY %s: it isn't there", source)
			}
			all = slices.DeleteFunc(all, copied)
		}
	}
	// What the program is made of is copied, then.
	list := exec.Command("go", "list", "-deps", "-f", `{{if not .Standard}}{{$d := .}}{{range .GoFiles}}{{$d.Dir}}/{{.}}{{"\n"}}{{end}}{{end}}`, "./cmd/broker")
	list.Dir = brokertest.ModuleRoot(t)
	sources, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for source := range strings.Lines(string(sources)) {
		if ours, ok := strings.CutPrefix(strings.TrimSpace(source), list.Dir+"/"); ok && slices.Contains(all, ours) {
			t.Errorf("%s isn't copied", ours)
		}
	}
	program := regexp.MustCompile(`ENTRYPOINT \["(.*)"\]`).FindStringSubmatch(last)[1]
	if test := composed(t).Services["broker"].Healthcheck.Test; !slices.Equal(test, []string{"CMD", program, "admin", "status"}) {
		t.Errorf("health check %q; the image's only program is %s", test, program)
	}
}

func portsOf(cfg *config.Config) []string {
	var ports []string
	for _, address := range []string{cfg.Listeners.GRPC.Address, cfg.Listeners.HTTP.Address} {
		_, port, _ := net.SplitHostPort(address)
		ports = append(ports, port)
	}
	return ports
}

func TestMinIOImageIsTheOneThatTestsRun(t *testing.T) {
	text := read(t, "deploy/compose/minio.Dockerfile")
	for line := range strings.Lines(read(t, "scripts/tools.txt")) {
		f := strings.Fields(line)
		if len(f) >= 3 && (f[0] == "minio" || f[0] == "mc") && !strings.Contains(text, "go install "+f[1]+"@"+f[2]+"\n") {
			t.Errorf("minio.Dockerfile doesn't install %s@%s", f[1], f[2])
		}
	}
}

func TestLinksLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)
	all := files(t, ".", "*")
	for _, doc := range append(files(t, "deploy", "*.md"), "docs/threat-model.md") {
		for _, m := range link.FindAllStringSubmatch(read(t, doc), -1) {
			if target := path.Join(path.Dir(doc), m[1]); !slices.Contains(all, target) {
				t.Errorf("%s: there is no %s", doc, target)
			}
		}
	}
}
