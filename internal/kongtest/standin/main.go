// Command standin is nginx with Lua in the role of Kong, for the demo: standin KONG.YML DIR PORT. It becomes nginx, which logs into DIR.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"github.com/credbroker/credbroker/internal/kongtest"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "standin:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("usage: standin KONG.YML DIR PORT")
	}
	config, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	file, err := kongtest.Prepare(root, args[1], port, kongtest.Options{Config: string(config)})
	if err != nil {
		return err
	}
	nginx, err := exec.Command("scripts/tool", "nginx-lua").Output()
	if err != nil {
		return err
	}
	program := strings.TrimSpace(string(nginx))
	return syscall.Exec(program, []string{program, "-p", args[1], "-c", file}, os.Environ())
}
