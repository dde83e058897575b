package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	durationType = reflect.TypeFor[time.Duration]()
	levelType    = reflect.TypeFor[slog.Level]()
	sizeType     = reflect.TypeFor[int64]() // an int64 is a size in bytes; a plain number is an int
)

var (
	durationForm = regexp.MustCompile(`^([0-9]+(h|m|s|ms))+$`)
	sizeForm     = regexp.MustCompile(`^(0|[1-9][0-9]*)(KiB|MiB|GiB)?$`)
	numberForm   = regexp.MustCompile(`^(0|[1-9][0-9]*)$`)
)

// levels are the values of log.level.
var levels = map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}

// isScalar reports whether a value of this type is one word of the file, and so can come from the environment.
func isScalar(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int64:
		return true
	}
	return false
}

// tagOf is the YAML type that a value is written as.
func tagOf(t reflect.Type) string {
	switch {
	case t.Kind() == reflect.Bool:
		return "!!bool"
	case t != durationType && t != levelType && t != sizeType && t.Kind() == reflect.Int:
		return "!!int"
	}
	return "!!str"
}

// expected says in words how a value of this type is written.
func expected(t reflect.Type) string {
	switch {
	case t == durationType:
		return `a duration like "90s" or "1h30m" (units h, m, s, ms; whole numbers)`
	case t == levelType:
		return "debug, info, warn or error"
	case t == sizeType:
		return `a whole number of bytes, or one with KiB, MiB or GiB like "64MiB"`
	case t.Kind() == reflect.Int:
		return "a whole number"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.String:
		return "text"
	case t.Kind() == reflect.Slice:
		return "a list"
	}
	return "keys and values"
}

// setScalar sets v to what text stands for. It is the same for the file and the environment.
func setScalar(v reflect.Value, text string) error {
	bad := fmt.Errorf("%.64q; expected %s", text, expected(v.Type()))
	switch {
	case v.Type() == durationType:
		if !durationForm.MatchString(text) {
			return bad
		}
		d, err := time.ParseDuration(text)
		if err != nil {
			return errors.New("the duration is too long")
		}
		v.SetInt(int64(d))
	case v.Type() == levelType:
		level, ok := levels[text]
		if !ok {
			return bad
		}
		v.SetInt(int64(level))
	case v.Type() == sizeType:
		n, ok := parseSize(text)
		if !ok {
			return bad
		}
		v.SetInt(n)
	case v.Kind() == reflect.Int:
		n, err := strconv.Atoi(text)
		if !numberForm.MatchString(text) || err != nil {
			return bad
		}
		v.SetInt(int64(n))
	case v.Kind() == reflect.Bool:
		if text != "true" && text != "false" {
			return bad
		}
		v.SetBool(text == "true")
	default:
		v.SetString(text)
	}
	return nil
}

func parseSize(text string) (int64, bool) {
	m := sizeForm.FindStringSubmatch(text)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	unit := map[string]int64{"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[m[2]]
	if err != nil || n > math.MaxInt64/unit {
		return 0, false
	}
	return n * unit, true
}

// fieldsOf is the reflected struct behind a pointer.
func fieldsOf(p any) reflect.Value { return reflect.ValueOf(p).Elem() }

// key is how a struct field is written in the file; empty if it isn't.
func key(f reflect.StructField) string {
	name := f.Tag.Get("yaml")
	if name == "-" {
		return ""
	}
	return name
}

// fieldNames are the keys of a struct, with the index of each one's field.
func fieldNames(t reflect.Type) map[string]int {
	names := make(map[string]int, t.NumField())
	for i := range t.NumField() {
		if k := key(t.Field(i)); k != "" {
			names[k] = i
		}
	}
	return names
}

// fieldList are the keys of a struct in the order they are declared in.
func fieldList(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		if k := key(t.Field(i)); k != "" {
			names = append(names, k)
		}
	}
	return names
}

// walk calls visit for each value that isn't a struct or a map of structs, in a fixed order. What visit sets stays set.
func walk(v reflect.Value, path string, visit func(path string, v reflect.Value)) {
	switch {
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			if k := key(v.Type().Field(i)); k != "" {
				walk(v.Field(i), join(path, k), visit)
			}
		}
	case v.Kind() == reflect.Map && v.Type().Elem().Kind() == reflect.Struct:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, k := range keys {
			// An element of a map can't be set in place.
			element := reflect.New(v.Type().Elem()).Elem()
			element.Set(v.MapIndex(k))
			walk(element, join(path, k.String()), visit)
			v.SetMapIndex(k, element)
		}
	default:
		visit(path, v)
	}
}

// perItem reports whether a path lies in a list of the configuration, whose entries have no names of their own.
func perItem(path string) bool {
	top, _, _ := strings.Cut(path, ".")
	return top == "issuers" || top == "roles"
}
