package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// format is how a reading verb answers.
type format string

// The formats.
const (
	formatText format = "text"
	formatJSON format = "json"
)

// String implements pflag.Value.
func (f *format) String() string { return string(*f) }

// Type implements pflag.Value.
func (*format) Type() string { return "format" }

// Set implements pflag.Value.
func (f *format) Set(s string) error {
	switch v := format(s); v {
	case formatText, formatJSON:
		*f = v
		return nil
	}
	return errors.New("use text or json")
}

// addOutput gives a verb -o.
func addOutput(cmd *cobra.Command) *format {
	f := formatText
	cmd.Flags().VarP(&f, "output", "o", "output `format`: text or json")
	completeWords(cmd, "output", []string{string(formatText), string(formatJSON)})
	return &f
}

// schema is the version of what the verbs write as JSON, see docs/json.md: fields are added to it, but not renamed, removed or given another meaning.
const schema = 1

// writeJSON writes an object, with the schema in front.
func writeJSON(w io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, withSchema(text), "", "  "); err != nil {
		return err
	}
	indented.WriteByte('\n')
	_, err = w.Write(indented.Bytes())
	return err
}

// writeJSONLine is writeJSON for one line of many.
func writeJSONLine(w io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err == nil {
		_, err = w.Write(append(withSchema(text), '\n'))
	}
	return err
}

// withSchema puts the schema in front of the fields of an object.
func withSchema(object []byte) []byte {
	head := fmt.Sprintf(`{"schema":%d`, schema)
	if rest := object[1:]; rest[0] != '}' {
		return append([]byte(head+","), rest...)
	}
	return []byte(head + "}")
}

// writeArray writes an object with an array under one name, whose elements it writes as they arrive.
func writeArray[T any](w io.Writer, name string, all func(yield func(T) error) error) error {
	b := bufio.NewWriter(w)
	_, _ = fmt.Fprintf(b, `{"schema":%d,%q:[`, schema, name) // bufio keeps its first error
	separator := "\n"
	err := all(func(v T) error {
		text, err := json.Marshal(v)
		if err != nil {
			return err
		}
		_, _ = b.WriteString(separator)
		separator = ",\n"
		_, err = b.Write(text)
		return err
	})
	if err != nil && separator == "\n" {
		return err // nothing has come: there is no answer to begin
	}
	if err != nil {
		_ = b.Flush() // what has come; without the closing brackets it can't pass for all
		return err
	}
	if separator == ",\n" {
		_ = b.WriteByte('\n')
	}
	_, _ = b.WriteString("]}\n")
	return b.Flush()
}
