package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// An empty value would choose everything, which is never what a script means whose variable is empty.
var errEmpty = errors.New("it is empty: say which, or leave the flag out")

// wordValue is a word as a flag.
type wordValue string

// String implements pflag.Value.
func (w *wordValue) String() string { return string(*w) }

// Type implements pflag.Value.
func (*wordValue) Type() string { return "string" }

// Set implements pflag.Value.
func (w *wordValue) Set(s string) error {
	if s == "" {
		return errEmpty
	}
	*w = wordValue(s)
	return nil
}

// listValue is a list of words as a flag, with commas or given repeatedly.
type listValue []string

// String implements pflag.Value.
func (l *listValue) String() string { return strings.Join(*l, ",") }

// Type implements pflag.Value, with pflag's own word for it.
func (*listValue) Type() string { return "stringSlice" }

// Set implements pflag.Value.
func (l *listValue) Set(s string) error {
	if s == "" {
		return errEmpty
	}
	*l = append(*l, strings.Split(s, ",")...)
	return nil
}

// portValue is a port as a flag, 0 if it isn't given.
type portValue uint16

// String implements pflag.Value.
func (p *portValue) String() string {
	if *p == 0 {
		return ""
	}
	return strconv.Itoa(int(*p))
}

// Type implements pflag.Value.
func (*portValue) Type() string { return "port" }

// Set implements pflag.Value.
func (p *portValue) Set(s string) error {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return errors.New("use one port, 1 to 65535")
	}
	*p = portValue(n)
	return nil
}

// valueError says what to write where pflag says only what its parser thought.
func valueError(err error) error {
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return err
	}
	flag := invalid.GetFlag()
	remedy, ok := map[string]string{"int": "use a whole number", "duration": "write a time such as 500ms, 10s or 5m", "bool": "use true or false, or no value"}[flag.Value.Type()]
	if !ok {
		return err
	}
	return fmt.Errorf("invalid argument %q for \"--%s\" flag: %s", invalid.GetValue(), flag.Name, remedy)
}
