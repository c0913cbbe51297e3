package netcfg

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"top/lib/top"
)

// A table is one nftables table as a batch: nothing of it is there before commit,
// and then all of it.
type table struct {
	conn *nftables.Conn
	t    *nftables.Table
	err  error
}

// open begins a batch on a table of family inet.
func open(name string) (*table, error) {
	conn, err := nftables.New(nftables.WithSockOptions(roomy))
	if err != nil {
		return nil, wrap(err, "nftables")
	}
	return &table{conn: conn, t: &nftables.Table{Name: name, Family: nftables.TableFamilyINet}}, nil
}

// roomy makes room for a batch, which is one message, and for an answer to each of
// its parts.
func roomy(c *netlink.Conn) error {
	return errors.Join(c.SetWriteBuffer(maxBatch), c.SetReadBuffer(maxBatch))
}

const maxBatch = 32 << 20 // bytes

// renew makes the batch replace the whole table.
func (b *table) renew() {
	b.conn.AddTable(b.t) // so that there is one to delete
	b.conn.DelTable(b.t)
	b.conn.AddTable(b.t)
}

func (b *table) commit() error {
	if b.err != nil {
		return fmt.Errorf("table %s: %w", b.t.Name, b.err)
	}
	return wrap(b.conn.Flush(), "nftables table "+b.t.Name)
}

// wrap gives an error of the kernel its kind, and names what mends it.
func wrap(err error, what string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, fs.ErrPermission):
		return top.Errorf(top.Denied, "%s: %v (needs root or CAP_NET_ADMIN; without them: --socks)", what, err)
	case errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT):
		return top.Errorf(top.Failed, "%s: %v (the kernel lacks nf_tables or policy routing; without them: --socks)", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// A hook is where a base chain stands. A chain that closes drops what no rule
// takes.
type hook struct {
	kind     nftables.ChainType
	at       *nftables.ChainHook
	priority nftables.ChainPriority
	closes   bool
}

func (b *table) base(name string, h hook) *nftables.Chain {
	policy := nftables.ChainPolicyAccept
	if h.closes {
		policy = nftables.ChainPolicyDrop
	}
	return b.conn.AddChain(&nftables.Chain{Name: name, Table: b.t, Type: h.kind, Hooknum: h.at, Priority: &h.priority, Policy: &policy})
}

func (b *table) chain(name string) *nftables.Chain {
	return b.conn.AddChain(&nftables.Chain{Name: name, Table: b.t})
}

// rule appends a rule; its comment is what nft list shows.
func (b *table) rule(c *nftables.Chain, comment string, parts ...[]expr.Any) {
	r := &nftables.Rule{Table: b.t, Chain: c, Exprs: slices.Concat(parts...)}
	if comment != "" {
		r.UserData = userdata.AppendString(nil, userdata.TypeComment, comment)
	}
	b.conn.AddRule(r)
}

// The matches: a rule takes a packet when all of its parts do.

func metaIs(key expr.MetaKey, value []byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value}}
}

func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func oif(name string) []expr.Any { return metaIs(expr.MetaKeyOIFNAME, ifname(name)) }
func iif(name string) []expr.Any { return metaIs(expr.MetaKeyIIFNAME, ifname(name)) }

func not(match []expr.Any) []expr.Any {
	match[len(match)-1].(*expr.Cmp).Op = expr.CmpOpNeq
	return match
}

func marked(mark uint32) []expr.Any {
	return metaIs(expr.MetaKeyMARK, binaryutil.NativeEndian.PutUint32(mark))
}

func ctMarked(mark uint32) []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(mark)}}
}

// ctHas matches connections with any of the bits of their state or status.
func ctHas(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func answers() []expr.Any {
	return ctHas(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
}

func family(is4 bool) []expr.Any {
	if is4 {
		return metaIs(expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV4})
	}
	return metaIs(expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV6})
}

func proto(p byte) []expr.Any { return metaIs(expr.MetaKeyL4PROTO, []byte{p}) }

// port matches a port of TCP or UDP: at 0 the source's, at 2 the destination's.
func port(at uint32, first, last uint16) []expr.Any {
	load := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: at, Len: 2}
	from, to := binaryutil.BigEndian.PutUint16(first), binaryutil.BigEndian.PutUint16(last)
	if first == last {
		return []expr.Any{load, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: from}}
	}
	return []expr.Any{load, &expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: from, ToData: to}}
}

const (
	sport = 0
	dport = 2
)

// hop255 matches IPv6 packets that no router has passed on.
func hop255() []expr.Any {
	return slices.Concat(family(false), []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 7, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{255}}})
}

func icmp6(kind byte) []expr.Any {
	return slices.Concat(proto(unix.IPPROTO_ICMPV6), []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{kind}}})
}

// An end of a packet is its source or its destination.
type end bool

const (
	src end = false
	dst end = true
)

func (e end) load(is4 bool) *expr.Payload {
	p := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 8, Len: 16}
	if is4 {
		p.Offset, p.Len = 12, 4
	}
	if e == dst {
		p.Offset += p.Len
	}
	return p
}

// is matches one address.
func (e end) is(a netip.Addr) []expr.Any {
	return slices.Concat(family(a.Is4()), []expr.Any{e.load(a.Is4()), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: a.AsSlice()}})
}

// local matches what is an address of this host.
func local() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// maxElements keeps a set within one netlink attribute of 64 KiB.
const maxElements = 400

// each calls do with a match for each part of the prefixes: as many sets as their
// number asks for. do makes one rule of it: a nameless set belongs to one.
func (b *table) each(e end, prefixes []netip.Prefix, do func(match []expr.Any)) {
	for _, is4 := range []bool{true, false} {
		for ranges := range slices.Chunk(merge(prefixes, is4), maxElements) {
			if first := ranges[0]; first.from.IsUnspecified() && first.next == (netip.Addr{}) {
				do(family(is4))
				continue
			}
			do(slices.Concat(family(is4), b.among(e, is4, ranges, false)))
		}
	}
}

// except calls do with a match for what is in none of the prefixes.
func (b *table) except(e end, is4 bool, prefixes []netip.Prefix, do func(match []expr.Any)) {
	match := family(is4)
	for ranges := range slices.Chunk(merge(prefixes, is4), maxElements) {
		match = append(match, b.among(e, is4, ranges, true)...)
	}
	do(match)
}

// among matches addresses in the ranges, or those outside all of them. A range that is a
// prefix is compared: a set costs each packet several times as much.
func (b *table) among(e end, is4 bool, ranges []span, outside bool) []expr.Any {
	p, ok := ranges[0].prefix()
	if !ok || len(ranges) > 1 {
		return []expr.Any{e.load(is4), b.lookup(ranges, outside)}
	}
	n := uint32(p.Addr().BitLen() / 8)
	op := expr.CmpOpEq
	if outside {
		op = expr.CmpOpNeq
	}
	return []expr.Any{
		e.load(is4),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: n, Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()), Xor: make([]byte, n)},
		&expr.Cmp{Op: op, Register: 1, Data: p.Addr().AsSlice()},
	}
}

// lookup makes a nameless set, which lives as long as its rule.
func (b *table) lookup(ranges []span, invert bool) *expr.Lookup {
	set := &nftables.Set{Table: b.t, Anonymous: true, Constant: true, Interval: true, KeyType: nftables.TypeIP6Addr}
	if ranges[0].from.Is4() {
		set.KeyType = nftables.TypeIPAddr
	}
	var elements []nftables.SetElement
	for _, r := range ranges {
		elements = append(elements, nftables.SetElement{Key: r.from.AsSlice()})
		if r.next.IsValid() {
			elements = append(elements, nftables.SetElement{Key: r.next.AsSlice(), IntervalEnd: true})
		}
	}
	if err := b.conn.AddSet(set, elements); err != nil {
		b.err = err
	}
	return &expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID, Invert: invert}
}

// A span is the addresses from one up to before another; the zero Addr is the end
// of all.
type span struct{ from, next netip.Addr }

// prefix is the span as one, if it is one.
func (s span) prefix() (netip.Prefix, bool) {
	for bits := range s.from.BitLen() + 1 {
		if p := netip.PrefixFrom(s.from, bits); p.Masked() == p && last(p).Next() == s.next {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// merge sorts the prefixes of a family into spans that do not touch.
func merge(prefixes []netip.Prefix, is4 bool) (spans []span) {
	sorted := slices.DeleteFunc(slices.Clone(prefixes), func(p netip.Prefix) bool { return p.Addr().Is4() != is4 })
	slices.SortFunc(sorted, func(a, b netip.Prefix) int {
		return cmp.Or(a.Masked().Addr().Compare(b.Masked().Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	for _, p := range sorted {
		s := span{p.Masked().Addr(), last(p).Next()}
		if n := len(spans) - 1; n >= 0 && (!spans[n].next.IsValid() || s.from.Compare(spans[n].next) <= 0) {
			if spans[n].next.IsValid() && (!s.next.IsValid() || s.next.Compare(spans[n].next) > 0) {
				spans[n].next = s.next
			}
			continue
		}
		spans = append(spans, s)
	}
	return spans
}

// last is the highest address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// The verdicts.

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }
func drop() []expr.Any   { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }
func giveBack() []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}
}
func jump(c *nftables.Chain) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: c.Name}}
}
func count() []expr.Any { return []expr.Any{&expr.Counter{}} }

// refuse answers, so that who asks does not wait: prohibited, by ICMP or ICMPv6.
func refuse() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}
}

// resetTCP answers TCP with a reset.
func resetTCP() []expr.Any {
	return slices.Concat(proto(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
}

// toward sends a connection to another address.
func toward(a netip.Addr) []expr.Any {
	nfproto := uint32(unix.NFPROTO_IPV6)
	if a.Is4() {
		nfproto = unix.NFPROTO_IPV4
	}
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: a.AsSlice()},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: nfproto, RegAddrMin: 1},
	}
}

func masquerade() []expr.Any { return []expr.Any{&expr.Masq{}} }

// keep marks the connection of a packet as the packet is marked, and recall does
// the contrary.
func keep(mark uint32) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(mark)},
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true},
	}
}

func recall(mark uint32) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
	}
}

// clampMSS lowers the size of segments that a TCP connection begins with to what
// the routes of both directions take.
func clampMSS() []expr.Any {
	const syn, rst, maxSegment = 2, 4, 2 // flags and option of RFC 9293
	return slices.Concat(proto(unix.IPPROTO_TCP), []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{syn | rst}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{syn}},
		&expr.Rt{Register: 1, Key: expr.RtTCPMSS},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 2, Size: 2},
		&expr.Exthdr{SourceRegister: 1, Op: expr.ExthdrOpTcpopt, Type: maxSegment, Offset: 2, Len: 2},
	})
}

// noteChain holds what must be known to take a table back: the comments of its
// rules are KEY VALUE pairs, one rule for each note.
const noteChain = "notes"

func (b *table) note(notes map[string]string) {
	c := b.chain(noteChain)
	for _, k := range slices.Sorted(maps.Keys(notes)) {
		b.rule(c, k+" "+notes[k], giveBack())
	}
}

// notes reads them; nil says that there is no such table.
func notes(conn *nftables.Conn, name string) (map[string]string, error) {
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, wrap(err, "nftables")
	}
	i := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == name })
	if i < 0 {
		return nil, nil
	}
	found := map[string]string{}
	rules, err := conn.GetRules(tables[i], &nftables.Chain{Name: noteChain})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, wrap(err, "nftables table "+name)
	}
	for _, r := range rules {
		if text, ok := userdata.GetString(r.UserData, userdata.TypeComment); ok {
			k, v, _ := strings.Cut(text, " ")
			found[k] = v
		}
	}
	return found, nil
}
