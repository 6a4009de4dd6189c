package config

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
)

// delimiter separates the parts of a key inside viper. Its usual "." would take apart keys
// that contain one.
const delimiter = "::"

// Load reads, merges and checks the file at path and the environment. The error, if any, is
// Problems. The Config has then what is good: what is wrong is at its default, and of the services
// there are all or none.
func Load(path string) (Config, error) {
	_, cfg, problems := merge(path)
	if len(problems) > 0 {
		return cfg, problems
	}
	return cfg, nil
}

// merge returns the texts besides: the defaults of those that the file and the environment don't have.
func merge(path string) (r raw, cfg Config, problems Problems) {
	tree, p := readTree(path)
	if p != nil {
		problems = append(problems, *p)
	}
	c := checker{
		report: func(key, format string, args ...any) {
			problems = append(problems, Problem{Source: sourceOf(path, key), Key: key, Text: fmt.Sprintf(format, args...)})
		},
		wrong: func(key string) bool { return problems.concern(key) },
	}

	clean, _ := checkShape(c.report, "", tree, reflect.TypeFor[raw]())
	c.shape = slices.Clone(problems)
	tree, _ = clean.(map[string]any)
	r, err := decode(tree)
	if err != nil {
		// A shape that checkShape let through: say so in mapstructure's words.
		problems = append(problems, Problem{Source: path, Text: strings.Join(strings.Fields(err.Error()), " ")})
		if r, err = decode(nil); err != nil {
			return r, Config{}, append(problems, Problem{Source: path, Text: err.Error()})
		}
	}
	cfg = c.config(r)
	// If the services were lost above, their absence is no news.
	if len(r.Services) == 0 && p == nil && !problems.concern("services") {
		c.report("services", "there are none, so nothing would be protected: add one with a name and prefixes")
	}
	return r, cfg, problems
}

// decode lays the environment over the file over the defaults.
func decode(tree map[string]any) (raw, error) {
	var r raw
	v := viper.NewWithOptions(viper.KeyDelimiter(delimiter))
	if err := v.MergeConfigMap(tree); err != nil {
		return r, err
	}
	for _, d := range defaults {
		key := strings.ReplaceAll(d.key, ".", delimiter)
		v.SetDefault(key, d.value)
		// Bound one by one: with AutomaticEnv a stray LEVEE_LOG would hide the whole section "log".
		if err := v.BindEnv(key, envName(d.key)); err != nil {
			return r, err
		}
	}
	err := v.UnmarshalExact(&r, viper.DecodeHook(mapstructure.DecodeHookFuncType(decodeText)))
	return r, err
}

// decodeText turns scalars into text and lone scalars into lists. Left alone, mapstructure
// would write true as "1".
func decodeText(from, to reflect.Type, data any) (any, error) {
	switch to {
	case reflect.TypeFor[text]():
		switch v := data.(type) {
		case bool:
			return strconv.FormatBool(v), nil
		case float64:
			return strconv.FormatFloat(v, 'g', -1, 64), nil
		default:
			return fmt.Sprint(v), nil
		}
	case reflect.TypeFor[words]():
		if from.Kind() != reflect.Slice {
			return []any{data}, nil
		}
	}
	return data, nil
}

func envName(key string) string {
	return "LEVEE_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// sourceOf is the variable that the value of key came from, if one did, or else the file.
func sourceOf(path, key string) string {
	for _, d := range defaults {
		if base, _, _ := strings.Cut(key, "["); d.key == base && os.Getenv(envName(base)) != "" {
			return "environment " + envName(base)
		}
	}
	return path
}
