// Package prober asks servers what they do, with a SYN of the gateway's own that offers everything: MSS, window scale, SACK, timestamps
// and ECN. The SYN-ACK says it all, and goes no further than that: the kernel, which knows of no connection, answers it
// with a RST, so that no program on the server ever sees one. An ordinary connection and TCP_INFO would tell less: neither
// ECN nor anything that the gateway's own sysctls turn off; and what accepts it would log that it broke.
//
// Requests wait in a queue for each question: a client that scans ports has levee ask about every one of them, and pushes out no request
// that comes of clients who were served.
//
// It sends from one port that it keeps from others, at bounded rates, and believes only answers to its random
// sequence numbers.
package prober
