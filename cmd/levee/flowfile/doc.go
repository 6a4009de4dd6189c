// Package flowfile keeps the flow table's memory in a file on a tmpfs, mapped shared, so that connections outlive the process that looks
// after them: however it ends, the next one goes on with what is in the file. What the bytes mean is package proxy's business
// (see proxy.FlowState); this one sees to it that the file is levee's own, and that writing to it can't fail.
package flowfile
