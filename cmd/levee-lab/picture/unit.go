package picture

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// inUnit writes a value in a unit of Grafana's, of those that levee's dashboard has.
func inUnit(v float64, unit string) string {
	switch unit {
	case "percentunit":
		return number(100*v) + " %"
	case "reqps":
		return strings.TrimSpace(scaled(v, 1000, "kMGT")) + "/s"
	case "pps":
		return strings.TrimSpace(scaled(v, 1000, "kMGT")) + " p/s"
	case "bps":
		return scaled(v, 1000, "kMGT") + "b/s"
	case "bytes":
		if math.Abs(v) < 1024 {
			return number(v) + " B"
		}
		return scaled(v, 1024, "KMGT") + "iB"
	case "s":
		switch {
		case v == 0:
			return "0 s"
		case v < 1e-3:
			return number(v*1e6) + " µs"
		case v < 1:
			return number(v*1e3) + " ms"
		}
		return number(v) + " s"
	case "dateTimeAsIso":
		return time.UnixMilli(int64(v)).UTC().Format(time.DateTime)
	}
	return strings.TrimSpace(scaled(v, 1000, "kMGT"))
}

// scaled writes a value, a space, and the prefix that leaves it below the next, if any.
func scaled(v, step float64, prefixes string) string {
	if math.Abs(v) < step {
		return number(v) + " "
	}
	i := 0
	for v /= step; math.Abs(v) >= step && i < len(prefixes)-1; v /= step {
		i++
	}
	return number(v) + " " + prefixes[i:i+1]
}

// number has three digits or so.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64)
	}
	return strconv.FormatFloat(math.Round(v*100)/100, 'f', -1, 64)
}
