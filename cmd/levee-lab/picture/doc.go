// Package picture draws what levee shows people as PNGs: a terminal's screen, and a Grafana dashboard with the answers of a
// Prometheus to its queries. Grafana itself is not needed: panels are laid out by the dashboard's own grid, titles, units and legends, as far as
// levee's dashboard uses them, so a picture shows what the queries answer and what people have to read, not Grafana's own looks.
package picture
