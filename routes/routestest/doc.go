// Package routestest takes pictures of a network namespace's routing state, to show that a program has left it as
// it was. It looks at the kernel by itself and shares no code with package routes, which it is there to test.
package routestest
