// Package control is how the verbs talk to the running daemon: HTTP and JSON over a unix socket that only
// its owner can reach, so that `curl --unix-socket` works too.
//
//	GET /v1/status                              Status
//	GET /v1/flows?service=&state=&client=&client_port=&server=&server_port=&limit=
//	                                            an array of Flow, written as the table is walked
//	POST /v1/flows/kill?                        the same filters, at least one: lines of Killed, the last one counts
//	GET /v1/servers                             an array of Learned
//
// An answer that isn't 200 is {"error": "one line"}. Fields may be added, never renamed.
package control
