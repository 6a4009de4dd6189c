package config

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// checkShape compares what the YAML holds with the type that it will be decoded into: unknown keys,
// and lists, sections and scalars in each other's place. It returns what is left of value without these, which
// is what goes to viper, and whether that is all.
func checkShape(report reporter, path string, value any, want reflect.Type) (clean any, whole bool) {
	if value == nil {
		return nil, true // "key:" with nothing behind it is a key left out
	}
	switch {
	case want == reflect.TypeFor[text]():
		if isScalar(value) {
			return value, true
		}
		report(path, "%s where one value is due", kind(value))
		return nil, false
	case want == reflect.TypeFor[words]():
		return checkList(report, path, listOf(value), reflect.TypeFor[text]())
	case want.Kind() == reflect.Slice:
		list, ok := value.([]any)
		if !ok {
			report(path, "%s where a list is due: begin each element with \"- \"", kind(value))
			return nil, false
		}
		return checkList(report, path, list, want.Elem())
	}
	return checkSection(report, path, value, want)
}

// listOf makes a list of one of a lone value.
func listOf(value any) []any {
	if list, ok := value.([]any); ok {
		return list
	}
	return []any{value}
}

// checkList keeps a list of scalars only as a whole, and of one of sections what is good in each, so that all keep their places: what follows a
// missing element would be misnamed.
func checkList(report reporter, path string, list []any, want reflect.Type) (any, bool) {
	clean, whole := make([]any, len(list)), true
	for i, v := range list {
		if v == nil {
			report(index(path, i), "nothing where something is due")
			whole = false
		}
		element, ok := checkShape(report, index(path, i), v, want)
		whole = whole && ok
		if clean[i] = element; element == nil {
			clean[i] = map[string]any{}
		}
	}
	if !whole && want == reflect.TypeFor[text]() {
		return nil, false
	}
	return clean, whole
}

func checkSection(report reporter, path string, value any, want reflect.Type) (any, bool) {
	section, ok := value.(map[string]any)
	if !ok {
		report(path, "%s where a section is due: use one or more of %s", kind(value), strings.Join(keys(want), ", "))
		return nil, false
	}
	clean, whole := make(map[string]any), true
	for _, key := range slices.Sorted(maps.Keys(section)) {
		field, ok := fieldOf(want, key)
		if !ok {
			report(join(path, key), "unknown key: %s", suggest(key, keys(want)))
			whole = false
			continue
		}
		v, ok := checkShape(report, join(path, key), section[key], field.Type)
		clean[key] = v
		whole = whole && ok
	}
	return clean, whole
}

var plainKey = regexp.MustCompile(`^[A-Za-z0-9_-]{1,63}$`)

func isScalar(v any) bool {
	switch v.(type) {
	case string, bool, int, int64, uint64, float64:
		return true
	}
	return false
}

func kind(v any) string {
	switch v.(type) {
	case nil:
		return "nothing"
	case []any:
		return "a list"
	case map[string]any, map[any]any:
		return "a section"
	case string, bool, int, int64, uint64, float64:
		return "the value " + shown(text(fmt.Sprint(v)))
	}
	return "a date (put it in quotes if it is text)"
}

func keys(t reflect.Type) []string {
	var all []string
	for i := range t.NumField() {
		all = append(all, t.Field(i).Tag.Get("mapstructure"))
	}
	return all
}

func fieldOf(t reflect.Type, key string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		if f := t.Field(i); f.Tag.Get("mapstructure") == key {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

// join adds a key to a path, quoted and cut where it is not a plain word.
func join(path, key string) string {
	if !plainKey.MatchString(key) {
		key = shown(text(key))
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// suggest names the key that was probably meant, or all there are.
func suggest(key string, known []string) string {
	best, least := "", 3 // three edits away is another word
	for _, k := range known {
		if len(key) > 2*maxNameBytes {
			break
		}
		if d := distance(strings.ToLower(key), k); d < least {
			best, least = k, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %s?", best)
	}
	return "use one of " + strings.Join(known, ", ")
}

// distance is how many letters have to be inserted, deleted or replaced to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
