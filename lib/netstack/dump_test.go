package netstack

import (
	"fmt"
	"reflect"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// dump is what a stack counted, for a test that fails.
func dump(s *Stack) string {
	out := fmt.Sprintf("%+v bytes %d len %d cut %v;", s.Stats(), s.link.bytes, s.link.out.len(), s.link.cut.pkt != nil)
	v := reflect.ValueOf(s.stack.Stats().TCP)
	for i := range v.NumField() {
		if c, ok := v.Field(i).Interface().(*tcpip.StatCounter); ok && c.Value() > 0 {
			out += fmt.Sprintf(" %s=%d", v.Type().Field(i).Name, c.Value())
		}
	}
	out += fmt.Sprintf(" dropped=%d", s.stack.Stats().DroppedPackets.Value())
	for _, e := range s.stack.RegisteredEndpoints() {
		if t, ok := e.(interface{ Info() tcpip.EndpointInfo }); ok {
			out += fmt.Sprintf("\n%#v", t.Info())
		}
	}
	return out
}
