package compare

import (
	"encoding/xml"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDraw_isWellFormedWhateverTheBuses(t *testing.T) {
	for name, buses := range map[string][]*figures{
		"a name of markup":   {measured(`mem:?x=<a href="#">&'`)},
		"a long name":        {measured("nats:" + strings.Repeat("é/", 100))},
		"nothing measured":   {{Bus: "a", Error: "no"}, {Bus: "b", Error: "no"}},
		"a part measured":    {measured("a", func(f *figures) { f.Kill, f.Error = nil, "no" })},
		"many":               {measured("a"), measured("b"), measured("c"), measured("d"), measured("e"), measured("f"), measured("g"), measured("h")},
		"from start to end":  {measured("a", extremes(1, time.Hour))},
		"all in one instant": {measured("a", extremes(time.Millisecond, time.Millisecond))},
	} {
		r := &report{Load: load{Rooms: 1, Tabs: 1, Rate: 1, BurstRate: 10}, Buses: buses}
		r.judge()
		drawn := draw(r)
		var any struct{}
		require.NoError(t, xml.Unmarshal([]byte(drawn), &any), "%s:\n%s", name, drawn)
		require.NotContains(t, drawn, "<a href", name)
		require.NotRegexp(t, `NaN|Inf|%!`, drawn, name)
		require.Equal(t, 2*len(buses), strings.Count(drawn, `<g data-phase`)+strings.Count(drawn, "not measured"), name)
		for colour := range lightColours {
			require.Equal(t, colour < len(buses), strings.Contains(drawn, fmt.Sprintf(`class="bus f%d"`, colour)), name)
		}
	}
}

func extremes(least, most time.Duration) func(f *figures) {
	return func(f *figures) {
		for _, p := range []*phase{f.Conversation, f.Burst} {
			p.Deliveries = 2
			p.Handled = distribute([]time.Duration{least, most})
		}
	}
}
