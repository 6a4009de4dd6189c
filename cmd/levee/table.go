package main

import (
	"bufio"
	"io"
	"strings"
	"unicode/utf8"
)

// alignedRows is how many rows of a long table are aligned, and held, at a time.
const alignedRows = 1000

// table writes rows in aligned columns, and in two lines each where one would be wider than columns.
type table struct {
	w *bufio.Writer
	// first is how many cells are in the first line of two.
	first int
	rows  [][]string
}

// newTable begins a table with its titles.
func newTable(w io.Writer, first int, titles ...string) *table {
	return &table{w: bufio.NewWriter(w), first: first, rows: [][]string{titles}}
}

// add adds a row with as many cells as there are titles.
func (t *table) add(cells ...string) error {
	t.rows = append(t.rows, cells)
	if len(t.rows) < alignedRows {
		return nil
	}
	return t.flush()
}

// end writes what is held.
func (t *table) end() error { return t.flush() }

func (t *table) flush() error {
	if len(t.rows) == 0 {
		return t.w.Flush()
	}
	widths := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	const gap = 2
	total := -gap
	for _, n := range widths {
		total += n + gap
	}
	if total <= columns {
		for _, row := range t.rows {
			t.line("", row, widths)
		}
	} else {
		for _, row := range t.rows {
			t.line("", row[:t.first], widths[:t.first])
			t.line("    ", row[t.first:], widths[t.first:])
		}
	}
	t.rows = t.rows[:0] // what follows is aligned anew
	return t.w.Flush()
}

func (t *table) line(indent string, cells []string, widths []int) {
	line := indent
	for i, cell := range cells {
		line += cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2)
	}
	_, _ = t.w.WriteString(strings.TrimRight(line, " ") + "\n") // bufio keeps its first error
}
