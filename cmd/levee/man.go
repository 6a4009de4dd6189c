package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"levee/cmd/levee/config"
)

// manSection is that of commands for administrators (man-pages(7)).
const manSection = "8"

func newMan() *cobra.Command {
	return &cobra.Command{
		Use:   "man FOLDER",
		Short: "Write the manual pages",
		Long: "Write a manual page for levee and for each of its verbs into a folder that exists: it is for whoever makes packages. Their\n" +
			"date is SOURCE_DATE_EPOCH, or the beginning of 1970.",
		Hidden: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return misused("%s takes one folder: see %s --help", cmd.CommandPath(), cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			seconds := int64(0)
			if text := os.Getenv("SOURCE_DATE_EPOCH"); text != "" {
				var err error
				if seconds, err = strconv.ParseInt(text, 10, 64); err != nil {
					return fmt.Errorf("SOURCE_DATE_EPOCH %q is no number of seconds", text)
				}
			}
			return writeManual(cmd.Root(), args[0], time.Unix(seconds, 0).UTC())
		},
	}
}

// writeManual writes the page of a verb, and those of its own verbs.
func writeManual(cmd *cobra.Command, dir string, date time.Time) error {
	for _, c := range manVerbs(cmd) {
		if err := writeManual(c, dir, date); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, manName(cmd)+"."+manSection), []byte(manPage(cmd, date)), 0o644)
}

// manName is levee-flows-list.
func manName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// manVerbs are the verbs of cmd that have pages: all but completion, whose text is cobra's and tells of other systems.
func manVerbs(cmd *cobra.Command) (with []*cobra.Command) {
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() && c.Name() != "completion" && !c.IsAdditionalHelpTopicCommand() {
			with = append(with, c)
		}
	}
	return with
}

// manPage writes a page in the man macros (groff_man(7)).
func manPage(cmd *cobra.Command, date time.Time) string {
	cmd.InitDefaultHelpFlag()
	var b strings.Builder
	line := func(parts ...string) { b.WriteString(strings.Join(parts, "") + "\n") }
	fill := func(text string) {
		for _, l := range wrap(text, columns-10) { // what is escaped is longer
			line(roff(l))
		}
	}
	line(`.TH `, roffQuoted(strings.ToUpper(manName(cmd))), ` `, manSection, ` `, date.Format(time.DateOnly), ` `, roffQuoted("levee "+versionNow().Version), ` "System administration"`)
	line(".SH NAME")
	line(roff(manName(cmd)), ` \- `, roff(lowerFirst(cmd.Short)))
	line(".SH SYNOPSIS")
	arguments := strings.TrimPrefix(cmd.UseLine(), cmd.CommandPath())
	if len(manVerbs(cmd)) > 0 {
		arguments = " [VERB]" + arguments
	}
	line(`\fB`, roff(cmd.CommandPath()), `\fP`, roff(arguments))
	line(".SH DESCRIPTION")
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	for i, paragraph := range strings.Split(text, "\n\n") {
		if i > 0 {
			line(".PP")
		}
		fill(paragraph)
	}
	if verbs := manVerbs(cmd); len(verbs) > 0 {
		line(".SH VERBS")
		for _, c := range verbs {
			line(".TP")
			line(`\fB`, roff(c.Name()), `\fP`)
			fill(c.Short + ".")
		}
	}
	line(".SH OPTIONS")
	all := func(f *pflag.Flag) {
		if !f.Hidden {
			line(".TP")
			line(manFlag(f))
			_, usage := pflag.UnquoteUsage(f)
			fill(usage)
		}
	}
	cmd.NonInheritedFlags().VisitAll(all)
	cmd.InheritedFlags().VisitAll(all)
	if cmd.Example != "" {
		line(".SH EXAMPLES")
		line(".EX")
		line(roff(cmd.Example))
		line(".EE")
	}
	line(".SH EXIT STATUS")
	fill("0 for success, 1 for failure, 2 for misuse. An error is one line on the standard error.")
	line(".SH FILES")
	line(".TP")
	line(`\fI`, roff(config.DefaultFile), `\fP`)
	fill("The configuration. LEVEE_TUN_NAME in the environment overrides its key tun.name, and so on.")
	line(".TP")
	line(`\fI/usr/share/doc/levee\fP`)
	fill("README.md; operations.md, for the night call; configuration.md, every key; json.md, every field of -o json.")
	line(".SH SEE ALSO")
	var others []string
	if cmd.HasParent() {
		others = append(others, manName(cmd.Parent()))
	}
	for _, c := range manVerbs(cmd) {
		others = append(others, manName(c))
	}
	for i, name := range others {
		end := ","
		if i == len(others)-1 {
			end = ""
		}
		line(".BR ", roff(name), " (", manSection, ")", end)
	}
	return b.String()
}

// manFlag is "-c, --config FILE (/etc/levee/levee.yaml)".
func manFlag(f *pflag.Flag) string {
	name, _ := pflag.UnquoteUsage(f)
	text := `\fB` + roff("--"+f.Name) + `\fP`
	if f.Shorthand != "" {
		text = `\fB` + roff("-"+f.Shorthand) + `\fP, ` + text
	}
	if name != "" {
		text += ` \fI` + roff(strings.ToUpper(name)) + `\fP`
	}
	switch f.DefValue {
	case "", "0", "false", "[]", "0s":
		return text
	}
	return text + roff(" (default "+f.DefValue+")")
}

// roff has a text stand for itself: a hyphen is one that can be copied to a command line, and no line is a request.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "\n.", "\n\\&.", "\n'", "\n\\&'").Replace(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	return text
}

// roffQuoted is an argument of a request.
func roffQuoted(text string) string { return `"` + strings.ReplaceAll(roff(text), `"`, `\(dq`) + `"` }

// lowerFirst is as in the NAME of other pages; acronyms stay.
func lowerFirst(s string) string {
	if len(s) < 2 || strings.ToUpper(s[:2]) == s[:2] {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}
