package main

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"levee/cmd/levee/config"
	"levee/proxy"
)

// completeWords completes a flag with words that are always the same.
func completeWords(cmd *cobra.Command, flag string, words []string) {
	complete(cmd, flag, func() []string { return words })
}

// completeServices completes --service with the names in the configuration.
func completeServices(cmd *cobra.Command, file *string) {
	completeFrom(cmd, "service", file, func(s *proxy.Service) []string { return []string{s.Name} })
}

// completePrefixes completes a flag with what is protected.
func completePrefixes(cmd *cobra.Command, flag string, file *string) {
	completeFrom(cmd, flag, file, func(s *proxy.Service) (words []string) {
		for _, p := range s.Prefixes {
			words = append(words, p.String())
		}
		return words
	})
}

// completePorts completes --port with those that services name one by one.
func completePorts(cmd *cobra.Command, file *string) {
	completeFrom(cmd, "port", file, func(s *proxy.Service) (words []string) {
		for _, p := range s.Ports {
			if p.First == p.Last {
				words = append(words, fmt.Sprint(p.First))
			}
		}
		return words
	})
}

// completeFrom completes a flag with what words takes from each service in the configuration.
func completeFrom(cmd *cobra.Command, flag string, file *string, words func(*proxy.Service) []string) {
	complete(cmd, flag, func() (all []string) {
		cfg, _ := config.Load(*file) // what is good of it
		for i := range cfg.Services {
			for _, word := range words(&cfg.Services[i]) {
				if !slices.Contains(all, word) {
					all = append(all, word)
				}
			}
		}
		return all
	})
}

// completeInterfaces completes a flag with this machine's.
func completeInterfaces(cmd *cobra.Command, flag string) {
	complete(cmd, flag, func() (names []string) {
		all, _ := net.Interfaces()
		for _, i := range all {
			names = append(names, i.Name)
		}
		return names
	})
}

func complete(cmd *cobra.Command, flag string, words func() []string) {
	list := cmd.Flags().Lookup(flag).Value.Type() == "stringSlice"
	err := cmd.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		before := ""
		if i := strings.LastIndexByte(begun, ','); list && i >= 0 {
			before = begun[:i+1]
		}
		var all []string
		for _, word := range words() {
			all = append(all, before+word)
		}
		return all, cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic("levee: " + err.Error()) // there is no such flag
	}
}

// completeTCP completes the first of a verb's arguments; the others are addresses that nobody can know.
func completeTCP(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return []string{"tcp"}, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// completeFile completes one argument with the names of files.
func completeFile(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// files are the flags that name one.
var files = []string{"config", "write"}

// completeNothing keeps the shell from offering files for whatever nobody has words for: numbers, times, addresses.
func completeNothing(cmd *cobra.Command) {
	if cmd.ValidArgsFunction == nil {
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if _, known := cmd.GetFlagCompletionFunc(f.Name); !known && !slices.Contains(files, f.Name) {
			complete(cmd, f.Name, func() []string { return nil })
		}
	})
	for _, c := range cmd.Commands() {
		completeNothing(c)
	}
}
