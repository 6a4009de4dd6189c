package main

import (
	"github.com/spf13/cobra"

	"levee/cmd/levee/config"
)

// completeWords completes a flag with words that are always the same.
func completeWords(cmd *cobra.Command, flag string, words []string) {
	complete(cmd, flag, func() []string { return words })
}

// completeServices completes --service with the names in the configuration.
func completeServices(cmd *cobra.Command, file *string) {
	complete(cmd, "service", func() []string {
		cfg, _ := config.Load(*file) // what is good of it
		var names []string
		for _, s := range cfg.Services {
			names = append(names, s.Name)
		}
		return names
	})
}

func complete(cmd *cobra.Command, flag string, words func() []string) {
	err := cmd.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return words(), cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic("levee: " + err.Error()) // there is no such flag
	}
}
