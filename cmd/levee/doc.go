// Command levee protects servers from SYN floods: it runs the SYN proxy and everything that an operator
// needs to look at it, one verb to a file.
//
//	run      the daemon            check    is the configuration good?
//	status   how it is doing       plan     what would run do to this machine?
//	top      the same, live        apply    do so, without a daemon
//	flows    the connections       cleanup  undo what a killed daemon left
//	explain  one connection        observe  what becomes of packets
//	capture  the same as pcapng    servers  what is known of them
//	reload   read the file again   upgrade  go on with another program
//	drain    end without breaking  debug    all of it in one file
//	version
//
// Reading verbs take -o json. The exit code is 0 for success, 1 for failure, or a difference where one was asked
// for, and 2 for misuse; an error is one line on stderr that begins with "levee: ".
package main
