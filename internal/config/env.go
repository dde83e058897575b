package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// envPrefix begins the variables that override the file. The underscores are two, so that neither Kubernetes' service
// variables (CREDBROKER_PORT) nor the client's own (CREDBROKER_ENDPOINT) are taken for one.
const envPrefix = "CREDBROKER__"

// envName is the variable of a key: listeners.http.address is CREDBROKER__LISTENERS__HTTP__ADDRESS. A hyphen, which the
// names of exchangers may have and those of variables may not, becomes an underscore.
func envName(path string) string {
	return envPrefix + strings.ToUpper(strings.NewReplacer(".", "__", "-", "_").Replace(path))
}

// environment lays the variables over what the file says. Every scalar outside issuers and roles can be overridden, those
// of an exchanger if the file has it.
func (d *decoder) environment(c *Config, environ []string) {
	given := map[string]string{}
	for _, entry := range environ {
		// The last of two wins, as it does for a process that is given both.
		if name, value, _ := strings.Cut(entry, "="); strings.HasPrefix(name, envPrefix) {
			given[name] = value
		}
	}
	if len(given) == 0 {
		return
	}
	known := map[string]string{} // variable → key
	walk(fieldsOf(c), "", func(path string, v reflect.Value) {
		name := envName(path)
		if !isScalar(v.Type()) || perItem(path) {
			return
		}
		if other, ok := known[name]; ok && given[name] != "" {
			d.envFault(name, path, fmt.Sprintf("the variable could also mean %s; rename one of the exchangers", other))
			return
		}
		known[name] = path
		value, ok := given[name]
		if !ok {
			return
		}
		d.origins[path] = origin{file: name}
		if err := setScalar(v, value); err != nil {
			d.envFault(name, path, err.Error())
		}
	})
	for name := range given {
		if _, ok := known[name]; !ok {
			hint := nearest(name, slices.Sorted(maps.Keys(known)))
			if hint == "" {
				hint = "expected " + envPrefix + " and a key's path in upper case, joined by __ (issuers, roles and lists can't be overridden)"
			}
			d.envFault(name, "", "unknown variable; "+hint)
		}
	}
}

func (d *decoder) envFault(name, path, problem string) {
	d.faults = append(d.faults, Fault{File: name, Path: path, Problem: problem})
}
