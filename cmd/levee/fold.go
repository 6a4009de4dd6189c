package main

import (
	"bytes"
	"strings"

	"levee/routes"
)

// writeComment writes a text as comment of a shell, in lines of at most columns.
func writeComment(b *bytes.Buffer, text string) {
	for _, line := range wrap(text, columns-len("# ")) {
		b.WriteString("# " + line + "\n")
	}
}

// writeCommand writes a command behind a mark, in lines of at most columns but for words that are longer. A line that goes on ends with a backslash: to a
// shell, and to nft(8) between the quotes, that is one line.
func writeCommand(b *bytes.Buffer, mark, command string) {
	const more = " \\"
	words := commandWords(command)
	line := mark + words[0]
	for _, word := range words[1:] {
		if len(line)+1+len(word)+len(more) > columns {
			b.WriteString(line + more + "\n")
			line = "    " + word
			continue
		}
		line += " " + word
	}
	b.WriteString(line + "\n")
}

// commandWords splits a command at its spaces, but not within double quotes, which are nft's.
func commandWords(command string) (words []string) {
	open := false
	for _, piece := range strings.Split(command, " ") {
		if open {
			words[len(words)-1] += " " + piece
		} else {
			words = append(words, piece)
		}
		open = open != (strings.Count(piece, `"`)%2 == 1)
	}
	return words
}

// writeStep writes a difference, and how it is now.
func writeStep(b *bytes.Buffer, s routes.Step) {
	mark := s.Mark() + " "
	if s.Command == "" {
		for _, line := range wrap(s.Text, columns-len(mark)) {
			b.WriteString(mark + line + "\n")
			mark = "  "
		}
		return
	}
	writeCommand(b, mark, s.Command)
	if s.Text == "" {
		return
	}
	const now = "    # "
	b.Truncate(b.Len() - len("\n"))
	if line := b.Bytes()[bytes.LastIndexByte(b.Bytes(), '\n')+1:]; len(line)+len(" # ")+len(s.Text) <= columns {
		b.WriteString(" # " + s.Text + "\n")
		return
	}
	b.WriteString("\n")
	for _, line := range wrap(s.Text, columns-len(now)) {
		b.WriteString(now + line + "\n")
	}
}
