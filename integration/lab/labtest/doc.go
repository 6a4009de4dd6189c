// Package labtest ties labs to tests: what a test starts ends with it, and what explains a failure
// is shown, or kept, only if it failed.
package labtest
