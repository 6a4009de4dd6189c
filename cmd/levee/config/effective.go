package config

import (
	"fmt"
	"reflect"

	"go.yaml.in/yaml/v3"
)

// Effective returns the configuration at path as YAML, with what the environment and the defaults add to the file and without its comments. Of a service
// there is only what the file says. The error is that of Load; there is YAML all the same, of what was understood.
func Effective(path string) (string, error) {
	r, _, problems := merge(path)
	text, err := yaml.Marshal(yamlOf(reflect.ValueOf(r)))
	if err != nil {
		return "", err
	}
	if len(problems) > 0 {
		return string(text), problems
	}
	return string(text), nil
}

// yamlOf returns nil for what isn't there.
func yamlOf(v reflect.Value) *yaml.Node {
	switch v.Kind() {
	case reflect.String:
		if v.String() == "" {
			return nil
		}
		return scalar(v.String())
	case reflect.Slice:
		if v.Len() == 0 {
			return nil
		}
		list := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.Len() {
			if element := yamlOf(v.Index(i)); element != nil {
				list.Content = append(list.Content, element)
			}
		}
		return list
	}
	section := &yaml.Node{Kind: yaml.MappingNode}
	for i := range v.NumField() {
		if value := yamlOf(v.Field(i)); value != nil {
			name := v.Type().Field(i).Tag.Get("mapstructure")
			section.Content = append(section.Content, scalar(name), value)
		}
	}
	if len(section.Content) == 0 {
		return nil
	}
	return section
}

// scalar quotes what YAML would take for another value: 007 is 7.
func scalar(text string) *yaml.Node {
	node := &yaml.Node{Kind: yaml.ScalarNode, Value: text}
	var plain any
	if err := yaml.Unmarshal([]byte(text), &plain); err != nil || fmt.Sprint(plain) != text {
		node.Tag = "!!str"
	}
	return node
}
