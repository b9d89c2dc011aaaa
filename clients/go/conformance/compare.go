package main

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode"

	"modelkeep.dev/go"
)

// anyValue stands in an expected answer for any value but the default.
const anyValue = "${*}"

// compare an answer with what a case says of it.
func compare(expected, found any, where string) error {
	switch expected := expected.(type) {
	case map[string]any:
		answer, is := found.(map[string]any)
		if !is {
			return fmt.Errorf("%s is %v", where, found)
		}
		for name, value := range expected {
			if err := compare(value, answer[name], where+"."+name); err != nil {
				return err
			}
		}
		return nil
	case []any:
		answer, _ := found.([]any)
		if len(answer) != len(expected) {
			return fmt.Errorf("%s has %d entries, not %d: %v", where, len(answer), len(expected), found)
		}
		for i, value := range expected {
			if err := compare(value, answer[i], where+"."+strconv.Itoa(i)); err != nil {
				return err
			}
		}
		return nil
	}
	if expected == anyValue {
		if found == nil || reflect.ValueOf(found).IsZero() {
			return fmt.Errorf("%s is not set", where)
		}
		return nil
	}
	if !reflect.DeepEqual(expected, found) {
		return fmt.Errorf("%s is %v, not %v", where, found, expected)
	}
	return nil
}

// at is the value at a path such as "models.0.key"; nil if there is none.
func at(answer any, path string) any {
	for _, step := range strings.Split(path, ".") {
		switch inner := answer.(type) {
		case map[string]any:
			answer = inner[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i >= len(inner) {
				return nil
			}
			answer = inner[i]
		default:
			return nil
		}
	}
	return answer
}

// told is what the client tells of an error, in the words of the cases; another error is told as it is.
func told(err error) any {
	var failed *modelkeep.Error
	if !errors.As(err, &failed) {
		return err
	}
	metadata, violations := map[string]any{}, []any{}
	for key, value := range failed.Metadata {
		metadata[key] = value
	}
	for _, violation := range failed.Violations {
		violations = append(violations, violation.Field)
	}
	return map[string]any{"code": codeName(failed.Code.String()), "reason": string(failed.Reason),
		"remedy": failed.Remedy(), "metadata": metadata, "violations": violations}
}

// codeName is the name of a status code as the protocol spells it: "NOT_FOUND".
func codeName(name string) string {
	var spelt strings.Builder
	for i, letter := range name {
		if i > 0 && unicode.IsUpper(letter) {
			spelt.WriteByte('_')
		}
		spelt.WriteRune(unicode.ToUpper(letter))
	}
	return strings.Replace(spelt.String(), "CANCELED", "CANCELLED", 1)
}

// withViolations is an expected error that also says so where no field is bad.
func withViolations(expected map[string]any) map[string]any {
	whole := map[string]any{"violations": []any{}}
	for name, value := range expected {
		whole[name] = value
	}
	return whole
}
