package load

import (
	"fmt"
	"strings"
)

// Plot is an SVG of what was offered, taken and final in each second, in payments.
func Plot(rate string, batch int, seconds []Second) string {
	const width, height, left, bottom = 720, 320, 70, 40
	most := uint64(1)
	for _, s := range seconds {
		most = max(most, s.Offered, s.Taken, s.Final)
	}
	x := func(i int) float64 { return left + float64(i)*(width-left-20)/float64(max(len(seconds)-1, 1)) }
	y := func(v uint64) float64 { return height - bottom - float64(v)/float64(most)*(height-bottom-40) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/><text x="%d" y="20">payments a second, %s, %d to a signature</text>`+"\n", left, rate, batch)
	fmt.Fprintf(&b, `<path d="M%d 40V%dH%d" fill="none" stroke="black"/>`+"\n", left, height-bottom, width-20)
	for _, part := range []uint64{0, most / 2, most} {
		fmt.Fprintf(&b, `<text x="%d" y="%.0f" text-anchor="end">%d</text>`+"\n", left-6, y(part)+4, part*uint64(batch))
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%d s</text>`+"\n", width-20, height-bottom+18, len(seconds))
	for n, line := range []struct {
		name, color string
		of          func(Second) uint64
	}{
		{"offered", "#999999", func(s Second) uint64 { return s.Offered }},
		{"taken", "#d98200", func(s Second) uint64 { return s.Taken }},
		{"final", "#0060b0", func(s Second) uint64 { return s.Final }},
	} {
		var points []string
		for i, s := range seconds {
			points = append(points, fmt.Sprintf("%.1f,%.1f", x(i), y(line.of(s))))
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(points, " "), line.color)
		fmt.Fprintf(&b, `<text x="%d" y="%d" fill="%s">%s</text>`+"\n", left+n*80, height-8, line.color, line.name)
	}
	b.WriteString("</svg>\n")
	return b.String()
}
