package brokertest

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// process is a server's program. It can be run again once it has ended.
type process struct {
	// LogFile holds what all its runs printed.
	LogFile string

	t      testing.TB
	name   string    // for messages
	cmd    *exec.Cmd // nil unless it runs
	exited chan error
}

// endsWithTest has end called when the test ends, and the log's last 8 KiB printed if it failed.
func (p *process) endsWithTest(end func()) {
	p.t.Helper()
	p.t.Cleanup(func() {
		end()
		if p.t.Failed() {
			log, _ := os.ReadFile(p.LogFile)
			p.t.Logf("%s log:\n%s", p.name, tail(string(log), 8<<10))
		}
	})
}

// run starts a command, whose standard output and error are the log. It ends with the test's process at the latest.
func (p *process) run(cmd *exec.Cmd) {
	p.t.Helper()
	if p.cmd != nil {
		p.t.Fatalf("%s runs already", p.name)
	}
	log, err := os.OpenFile(p.LogFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	p.cmd, p.exited = cmd, exited
}

// waitUntil waits until ready returns nil, and fails the test if the process ends before that or the limit is over.
func (p *process) waitUntil(what string, limit time.Duration, ready func() error) {
	p.t.Helper()
	Eventually(p.t, limit, p.name+" "+what, func() error {
		select {
		case err := <-p.exited:
			p.exited <- err
			p.t.Fatalf("%s ended: %v", p.name, err)
		default:
		}
		return ready()
	})
}

// PID is the process's ID, once it was started.
func (p *process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to the process.
func (p *process) Signal(sig os.Signal) {
	p.t.Helper()
	if p.cmd == nil {
		p.t.Fatalf("%s doesn't run", p.name)
	}
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}

// Kill ends the process with SIGKILL. Killing one that doesn't run is fine.
func (p *process) Kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	<-p.exited
	p.cmd = nil
}

// terminate ends the process with SIGTERM, also a frozen one, or fails the test. One that doesn't run is fine.
func (p *process) terminate() {
	p.t.Helper()
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	select {
	case <-p.exited:
		p.cmd = nil
	case <-time.After(30 * time.Second):
		p.Kill()
		p.t.Errorf("%s did not stop within 30 s of SIGTERM", p.name)
	}
}
