// Package config turns the YAML file and the LEVEE_… environment into one validated, typed
// Config. It is the only importer of viper, whose work is to lay the environment over the
// file over the defaults; nobody sees viper afterwards.
//
// A load goes through four steps, each in its own file:
//
//	file → tree   tree.go    YAML, one document, no duplicate key
//	tree → shape  shape.go   every key known, every value a scalar, a list or a section where one is due
//	shape → raw   load.go    viper: defaults, file, environment → the raw struct, texts only
//	raw → Config  values.go, services.go, lists.go   texts and files of prefixes → checked values, every problem with its key
//
// Every problem is found in one go and named by file, key and value. Nothing here has a side effect.
package config
