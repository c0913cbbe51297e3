package ledger

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"top/lib/keys"
	"top/lib/session"
	"top/lib/top"
)

// model is the ledger's rules once more, slow and plain: maps, no pages, no
// tries, no heap, and amounts as signed integers that may not fall below zero.
type model struct {
	p        Params
	supply   int64
	burned   int64
	height   uint64
	now      uint64 // ms
	accounts []*modelAccount
	byKey    map[top.Address]int
	channels map[top.ID]*modelChannel
	nodes    map[top.NodeID]*modelNode
}

type modelAccount struct {
	key                        top.Address
	node                       top.NodeID
	balance, locked, unlocking int64
	unlockAt                   uint64
	used                       map[uint64]bool
	high                       uint64
	allowance, allowanceAt     uint64
	mailbox                    top.ID
	mailSeq                    uint64
}

type modelChannel struct {
	payer, provider int
	cap, paid       int64
	seq             uint64
	expiry, height  uint64
	closing         bool
}

type modelNode struct {
	owner int
	stake int64
}

func newModel(g Genesis) *model {
	m := &model{
		p: g.Params, now: g.Time * 1000, byKey: map[top.Address]int{},
		channels: map[top.ID]*modelChannel{}, nodes: map[top.NodeID]*modelNode{},
	}
	for _, a := range g.Accounts {
		n := m.add(a.Address)
		m.accounts[n].balance, m.accounts[n].locked = int64(a.Balance), int64(a.Locked)
		m.supply += int64(a.Balance + a.Locked)
	}
	return m
}

func (m *model) add(a top.Address) int {
	m.byKey[a] = len(m.accounts)
	m.accounts = append(m.accounts, &modelAccount{key: a, used: map[uint64]bool{}, allowanceAt: m.now})
	return len(m.accounts) - 1
}

func (m *model) begin(height, now uint64) {
	m.height, m.now = height, max(m.now, now)
	for _, a := range m.accounts {
		if a.unlocking > 0 && a.unlockAt <= m.now/1000 {
			a.balance += a.unlocking
			a.unlocking, a.unlockAt = 0, 0
		}
	}
}

// free is the allowance of an account now, in bytes × milliseconds of a day.
func (m *model) free(a *modelAccount) uint64 {
	perDay := uint64(a.locked) / uint64(top.One) * m.p.AllowanceBytes
	have := a.allowance + perDay*min(m.now-a.allowanceAt, msPerDay)
	return min(have, perDay*msPerDay)
}

func (m *model) settle(a *modelAccount) { a.allowance, a.allowanceAt = m.free(a), m.now }

// outcome is what the model says became of a transaction.
type outcome struct {
	kind top.Kind
	fee  int64
	free bool
	paid int64
}

func refused(k top.Kind) outcome { return outcome{kind: k} }

func (m *model) apply(t *Tx, size int) outcome {
	if t.Chain != m.p.Chain || !slices.Contains(m.p.Kinds, t.Body.Kind().String()) {
		return refused(top.Denied)
	}
	if b, ok := t.Body.(*Claim); ok {
		return m.claim(t, &b.Claim, size)
	}
	if b, ok := t.Body.(*Close); ok {
		if c := m.channels[b.Channel]; c != nil && c.provider == int(t.From) {
			return m.providerClose(t, b, size)
		}
	}
	if int(t.From) >= len(m.accounts) {
		return refused(top.NotFound)
	}
	a := m.accounts[t.From]
	if a.key != t.Key || m.now/1000 >= t.Expiry || t.Nonce == 0 || a.used[t.Nonce] ||
		t.Nonce+64 <= a.high || t.Nonce > a.high+maxNonceJump {
		return refused(top.Denied)
	}
	r := outcome{}
	switch need, fee := uint64(size)*msPerDay, int64(m.p.FeePerByte)*int64(size); {
	case a.locked >= int64(top.One) && m.free(a) >= need:
		a.allowance, a.allowanceAt, r.free = m.free(a)-need, m.now, true
	case a.balance >= fee:
		a.balance -= fee
		m.burned += fee
		r.fee = fee
	default:
		return refused(top.Denied)
	}
	a.used[t.Nonce] = true
	a.high = max(a.high, t.Nonce)
	r.kind = m.run(t, a)
	return r
}

func (m *model) run(t *Tx, a *modelAccount) top.Kind {
	from := int(t.From)
	switch b := t.Body.(type) {
	case *Transfer:
		return m.pay(a, []Dest{b.To}, []int64{int64(b.Amount)})
	case *Batch:
		return m.batch(a, b)
	case *Lock:
		if a.balance < int64(b.Amount) {
			return top.Denied
		}
		m.settle(a)
		a.balance -= int64(b.Amount)
		a.locked += int64(b.Amount)
	case *Unlock:
		if a.locked < int64(b.Amount) {
			return top.Denied
		}
		m.settle(a)
		a.locked -= int64(b.Amount)
		m.later(a, int64(b.Amount))
		m.settle(a)
	case *Register:
		return m.register(a, from, b)
	case *Unregister:
		if m.nodes[a.node] == nil {
			return top.NotFound
		}
		m.later(a, m.nodes[a.node].stake)
		delete(m.nodes, a.node)
		a.node = top.NodeID{}
	case *Open:
		switch {
		case int(b.Provider) >= len(m.accounts):
			return top.NotFound
		case int(b.Provider) == from, b.Expiry < m.now/1000+m.p.DeadlineSec, a.balance < int64(b.Cap):
			return top.Denied
		}
		a.balance -= int64(b.Cap)
		m.channels[ChannelID(t.Chain, t.Key, t.Nonce)] = &modelChannel{
			payer: from, provider: int(b.Provider), cap: int64(b.Cap), expiry: b.Expiry, height: m.height + m.p.DeadlineBlocks,
		}
	case *Close:
		c := m.channels[b.Channel]
		switch {
		case c == nil:
			return top.NotFound
		case c.payer != from:
			return top.Denied
		case b.Claim != nil:
			return top.Invalid
		case c.closing:
			return top.Denied
		}
		c.closing = true
		c.expiry = min(c.expiry, m.now/1000+m.p.DeadlineSec)
		c.height = max(c.height, m.height+m.p.DeadlineBlocks)
	case *Reclaim:
		c := m.channels[b.Channel]
		switch {
		case c == nil:
			return top.NotFound
		case c.payer != from || !m.over(c):
			return top.Denied
		}
		a.balance += c.cap - c.paid
		delete(m.channels, b.Channel)
	case *Mailbox:
		if b.Seq <= a.mailSeq {
			return top.Denied
		}
		a.mailbox, a.mailSeq = b.Digest, b.Seq
	}
	return ""
}

func (m *model) over(c *modelChannel) bool { return m.now/1000 >= c.expiry && m.height >= c.height }

func (m *model) later(a *modelAccount, amount int64) {
	if amount == 0 {
		return
	}
	a.unlocking += amount
	a.unlockAt = m.now/1000 + m.p.UnlockSeconds
}

// pay moves amounts to recipients, all or nothing.
func (m *model) pay(a *modelAccount, to []Dest, amounts []int64) top.Kind {
	total := int64(0)
	for _, v := range amounts {
		total += v
	}
	if a.balance < total {
		return top.Denied
	}
	credit := map[top.Address]int64{}
	for i, d := range to {
		switch {
		case d.Address != nil:
			credit[*d.Address] += amounts[i]
		case int(d.Index) >= len(m.accounts):
			return top.NotFound
		}
	}
	for who, v := range credit {
		if _, ok := m.byKey[who]; !ok && v <= int64(m.p.AccountFee) {
			return top.Denied
		}
	}
	a.balance -= total
	for i, d := range to {
		at := int(d.Index)
		if d.Address != nil {
			var ok bool
			if at, ok = m.byKey[*d.Address]; !ok {
				at = m.add(*d.Address)
				m.accounts[at].balance -= int64(m.p.AccountFee)
				m.burned += int64(m.p.AccountFee)
			}
		}
		m.accounts[at].balance += amounts[i]
	}
	return ""
}

func (m *model) batch(a *modelAccount, b *Batch) top.Kind {
	var to []Dest
	var amounts []int64
	paid := map[int]bool{}
	for i, x := range b.New {
		if slices.Contains(b.New[:i], x) {
			return top.Invalid
		}
	}
	for _, r := range b.Records {
		if int(r.Index) < len(b.New) {
			to = append(to, ToAddress(b.New[r.Index]))
			paid[int(r.Index)] = true
		} else {
			to = append(to, To(r.Index-uint32(len(b.New))))
		}
		amounts = append(amounts, int64(r.Amount))
	}
	for _, d := range to {
		if d.Address == nil && int(d.Index) >= len(m.accounts) {
			return top.NotFound
		}
	}
	// An address that is listed and gets nothing is no account.
	for i, x := range b.New {
		if _, ok := m.byKey[x]; !ok && !paid[i] {
			return top.Denied
		}
	}
	// New accounts get their indexes in the order of the list.
	total := int64(0)
	for _, v := range amounts {
		total += v
	}
	if total <= a.balance {
		ordered, sums := make([]Dest, 0, len(to)), make([]int64, 0, len(to))
		for i, x := range b.New {
			sum := int64(0)
			for j, d := range to {
				if d.Address != nil && *d.Address == x {
					sum += amounts[j]
				}
			}
			if paid[i] {
				ordered, sums = append(ordered, ToAddress(x)), append(sums, sum)
			}
		}
		for j, d := range to {
			if d.Address == nil {
				ordered, sums = append(ordered, d), append(sums, amounts[j])
			}
		}
		to, amounts = ordered, sums
	} else {
		for _, x := range b.New {
			if _, ok := m.byKey[x]; ok {
				continue
			}
			sum := int64(0)
			for j, d := range to {
				if d.Address != nil && *d.Address == x {
					sum += amounts[j]
				}
			}
			if sum <= int64(m.p.AccountFee) {
				return top.Denied
			}
		}
	}
	return m.pay(a, to, amounts)
}

func (m *model) register(a *modelAccount, from int, b *Register) top.Kind {
	if !keys.Verify(b.Node, registerDomain, m.p.Chain, a.key[:], b.NodeSig) || top.Address(b.Node) == a.key {
		return top.Denied
	}
	if n := m.nodes[b.Node]; n != nil && n.owner != from {
		return top.Denied
	}
	old := int64(0)
	if n := m.nodes[a.node]; n != nil {
		old = n.stake
	}
	more := int64(b.Stake) - old
	if more > a.balance {
		return top.Denied
	}
	if more > 0 {
		a.balance -= more
	} else {
		m.later(a, -more)
	}
	delete(m.nodes, a.node)
	a.node = b.Node
	m.nodes[b.Node] = &modelNode{from, int64(b.Stake)}
	return ""
}

// worth is what a claim on a channel adds, or why it adds nothing.
func (m *model) worth(t *Tx, id top.ID, claim *session.Claim) (*modelChannel, int64, top.Kind) {
	c := m.channels[id]
	if c == nil {
		return nil, 0, top.NotFound
	}
	p := m.accounts[c.provider]
	if int(t.From) != c.provider || t.Key != p.key && (p.node.IsZero() || t.Key != p.node) {
		return c, 0, top.Denied
	}
	if t.Nonce != 0 {
		return c, 0, top.Invalid
	}
	if m.now/1000 >= t.Expiry {
		return c, 0, top.Denied
	}
	if claim == nil {
		return c, 0, ""
	}
	v := claim.Voucher
	if v.Chain != m.p.Chain || v.Channel != id || m.over(c) || v.Seq < c.seq || v.Verify(m.accounts[c.payer].key) != nil {
		return c, 0, top.Denied
	}
	owed := int64(v.Amount)
	for i, a := range v.Anchors {
		w := claim.Ticks[i].W
		for range claim.Ticks[i].I {
			w = session.Hash(w, 1)
		}
		if claim.Ticks[i].I > 0 && (w != a.Root || claim.Ticks[i].I > a.N) {
			return c, 0, top.Denied
		}
		owed += int64(a.Price) * int64(claim.Ticks[i].I)
	}
	for _, aside := range v.Asides { // nano by nano
		for n := aside.Base; n < aside.Amount; n++ {
			for _, a := range claim.Acks {
				if a.Recipient() == aside.Recipient && a.From <= n && n < a.To {
					owed++
					break
				}
			}
		}
	}
	for _, a := range claim.Acks {
		if a.Verify(m.p.Chain, m.now/1000) != nil {
			return c, 0, top.Denied
		}
	}
	return c, max(0, min(owed, c.cap)-c.paid), ""
}

func (m *model) claim(t *Tx, claim *session.Claim, size int) outcome {
	c, add, why := m.worth(t, claim.Voucher.Channel, claim)
	fee := int64(m.p.FeePerByte) * int64(size)
	if why == "" && add <= fee {
		why = top.Denied
	}
	if why != "" {
		return refused(why)
	}
	c.paid += add
	c.seq = claim.Voucher.Seq
	m.accounts[c.provider].balance += add - fee
	m.burned += fee
	return outcome{fee: fee, paid: add}
}

func (m *model) providerClose(t *Tx, b *Close, size int) outcome {
	c, add, why := m.worth(t, b.Channel, b.Claim)
	if why != "" {
		return refused(why)
	}
	fee := min(add, int64(m.p.FeePerByte)*int64(size))
	m.accounts[c.provider].balance += add - fee
	m.accounts[c.payer].balance += c.cap - c.paid - add
	m.burned += fee
	delete(m.channels, b.Channel)
	return outcome{fee: fee, paid: add}
}

// conserved says what the model's money adds up to, beside its supply.
func (m *model) conserved() error {
	sum := m.burned
	for i, a := range m.accounts {
		if a.balance < 0 || a.locked < 0 || a.unlocking < 0 {
			return fmt.Errorf("account %d is below zero: %+v", i, a)
		}
		sum += a.balance + a.locked + a.unlocking
	}
	for _, c := range m.channels {
		sum += c.cap - c.paid
	}
	for _, n := range m.nodes {
		sum += n.stake
	}
	if sum != m.supply {
		return fmt.Errorf("model: %d of %d nano", sum, m.supply)
	}
	return nil
}

// same compares the state with the model.
func (m *model) same(s *State) error {
	if s.Accounts() != len(m.accounts) || int64(s.Burned()) != m.burned || len(s.channel) != len(m.channels) || len(s.node) != len(m.nodes) {
		return fmt.Errorf("%d accounts, %d burned, %d channels, %d nodes; model %d, %d, %d, %d",
			s.Accounts(), s.Burned(), len(s.channel), len(s.node), len(m.accounts), m.burned, len(m.channels), len(m.nodes))
	}
	for i, a := range m.accounts {
		b := s.Account(uint32(i))
		if int64(b.Balance) != a.balance || int64(b.Locked) != a.locked || int64(b.Unlocking) != a.unlocking ||
			b.UnlockAt != a.unlockAt || b.Nonce != a.high || b.Key != a.key || b.Node != a.node || b.AllowanceAt != a.allowanceAt || b.Allowance != a.allowance || b.Mailbox != a.mailbox || b.MailSeq != a.mailSeq {
			return fmt.Errorf("account %d is %+v, model %+v", i, b, a)
		}
		for k := range uint64(64) {
			if k < b.Nonce && (b.Window>>k&1 == 1) != a.used[b.Nonce-k] {
				return fmt.Errorf("account %d: nonce %d", i, b.Nonce-k)
			}
		}
	}
	for id, c := range m.channels {
		b, ok := s.Channel(id)
		if !ok || int64(b.Cap) != c.cap || int64(b.Paid) != c.paid || b.Seq != c.seq || b.Expiry != c.expiry ||
			uint64(b.ExpiryHeight) != c.height || b.Closing != c.closing || int(b.Payer) != c.payer || int(b.Provider) != c.provider {
			return fmt.Errorf("channel %s is %+v, model %+v", id, b, c)
		}
	}
	for id, n := range m.nodes {
		b, ok := s.Node(id)
		if !ok || int64(b.Stake) != n.stake || int(b.Owner) != n.owner {
			return fmt.Errorf("node %s is %+v, model %+v", id, b, n)
		}
	}
	return nil
}

// walker draws transactions, most of them nearly right.
type walker struct {
	r     *rand.Rand
	m     *model
	keys  map[top.Address]keys.Private
	nodes []keys.Private
	spare []top.Address // with no account yet
	made  map[top.ID]voucherKit
}

// voucherKit is what the payer of a channel remembers.
type voucherKit struct {
	seq    uint64
	amount top.Amount
}

func (w *walker) pick(n int) int { return w.r.IntN(max(n, 1)) }

// amount is small, sometimes nothing like what there is.
func (w *walker) amount() top.Amount {
	switch w.pick(12) {
	case 0:
		return top.Amount(1 + w.pick(int(w.m.p.AccountFee)*2))
	case 1:
		return 3 * top.One
	}
	return top.Amount(1 + w.pick(40_000))
}

func (w *walker) dest() Dest {
	switch w.pick(10) {
	case 0:
		if len(w.spare) > 0 {
			return ToAddress(w.spare[w.pick(len(w.spare))])
		}
	case 1:
		return ToAddress(w.m.accounts[w.pick(len(w.m.accounts))].key)
	case 2:
		return To(uint32(len(w.m.accounts) + w.pick(2)))
	}
	return To(uint32(w.pick(len(w.m.accounts))))
}

// channel is one of those open, or none.
func (w *walker) channel() top.ID {
	ids := slices.SortedFunc(maps.Keys(w.m.channels), compareIDs)
	if len(ids) == 0 || w.pick(15) == 0 {
		return top.ID{1}
	}
	return ids[w.pick(len(ids))]
}

// claim is a claim on a channel, by its payer's key or another's.
func (w *walker) claim(id top.ID) *session.Claim {
	c := w.m.channels[id]
	payer := w.pick(len(w.m.accounts))
	if c != nil && w.pick(10) > 0 {
		payer = c.payer
	}
	kit := w.made[id]
	if w.pick(4) > 0 {
		kit.seq++
		kit.amount += w.amount()
	}
	w.made[id] = kit
	v := session.Voucher{Chain: w.m.p.Chain, Channel: id, Seq: kit.seq, Amount: kit.amount}
	out := &session.Claim{}
	for k := range w.pick(3) {
		chain := session.NewHashChain([32]byte{byte(w.pick(256)), byte(k)}, uint32(1+w.pick(8)))
		v.Anchors = append(v.Anchors, session.Anchor{Session: top.SessionID{byte(k)}, Price: top.Amount(w.pick(4000)), Root: chain.Root(), N: chain.N()})
		i := uint32(w.pick(int(chain.N()) + 1))
		t := session.Tick{Session: top.SessionID{byte(k)}, I: i}
		if i > 0 {
			t.W = chain.At(i)
		}
		if w.pick(20) == 0 && i > 0 {
			t.W[0] ^= 1
		}
		out.Ticks = append(out.Ticks, t)
	}
	if w.pick(3) == 0 {
		w.deliver(&v, out)
	}
	if w.pick(30) == 0 {
		v.Chain[0] ^= 1
	}
	if err := v.Sign(w.keys[w.m.accounts[payer].key].Signer()); err != nil {
		panic(err)
	}
	out.Voucher = v
	return out
}

// deliver sets something aside for a few recipients, who acknowledge some of it.
func (w *walker) deliver(v *session.Voucher, out *session.Claim) {
	device := keys.FromSeed([32]byte{200})
	for range 1 + w.pick(2) {
		to := w.m.accounts[w.pick(len(w.m.accounts))].key
		if v.Aside(to).Amount > 0 {
			continue
		}
		base := top.Amount(w.pick(100))
		v.Asides = append(v.Asides, session.Aside{Recipient: to, Base: base, Amount: base + top.Amount(1+w.pick(300))})
	}
	slices.SortFunc(v.Asides, func(a, b session.Aside) int { return bytes.Compare(a.Recipient[:], b.Recipient[:]) })
	for _, a := range v.Asides {
		cert := keys.Certificate{Chain: w.m.p.Chain, Account: a.Recipient, Role: "device", Key: device.Public(), Expiry: 1 << 40}
		if w.pick(30) == 0 {
			cert.Expiry = 1
		}
		if err := cert.Sign(w.keys[a.Recipient].Signer()); err != nil {
			panic(err)
		}
		from := top.Amount(0)
		for range w.pick(4) {
			from += top.Amount(w.pick(150))
			ack := session.Ack{Channel: v.Channel, From: from, To: from + top.Amount(w.pick(200)), Count: 1, Cert: cert}
			if err := ack.Sign(device.Signer()); err != nil {
				panic(err)
			}
			if w.pick(40) == 0 {
				ack.Sig[5] ^= 1
			}
			out.Acks = append(out.Acks, ack)
		}
	}
}

func (w *walker) body(from int) Body {
	switch w.pick(15) {
	case 0, 1:
		return &Transfer{To: w.dest(), Amount: w.amount()}
	case 13:
		return &Mailbox{Digest: top.ID{byte(w.pick(256))}, Seq: uint64(w.pick(200))}
	case 2, 3:
		return w.batch()
	case 4:
		return &Lock{Amount: w.amount() * top.Amount(1+w.pick(3))}
	case 5:
		return &Unlock{Amount: w.amount()}
	case 6:
		b := &Register{Name: "n", Stake: w.amount() * top.Amount(w.pick(2))}
		if err := b.SignNode(w.nodes[w.pick(len(w.nodes))].Signer(), w.m.p.Chain, w.m.accounts[from].key); err != nil {
			panic(err)
		}
		if w.pick(10) == 0 {
			b.NodeSig[3] ^= 1
		}
		return b
	case 7:
		if w.pick(3) == 0 {
			return &Unregister{}
		}
		return &Transfer{To: w.dest(), Amount: w.amount()}
	case 8, 9:
		if len(w.m.channels) > 30 {
			return &Reclaim{Channel: w.channel()}
		}
		return &Open{Provider: uint32(w.pick(len(w.m.accounts) + 1)), Cap: w.amount(), Expiry: w.m.now/1000 + uint64(w.pick(40))}
	case 10, 11:
		return &Claim{Claim: *w.claim(w.channel())}
	case 12:
		b := &Close{Channel: w.channel()}
		if w.pick(3) == 0 {
			b.Claim = w.claim(b.Channel)
		}
		return b
	}
	return &Reclaim{Channel: w.channel()}
}

func (w *walker) batch() *Batch {
	b := &Batch{}
	for range w.pick(4) {
		if len(w.spare) > 0 && w.pick(2) == 0 {
			b.New = append(b.New, w.spare[w.pick(len(w.spare))])
		} else {
			b.New = append(b.New, w.m.accounts[w.pick(len(w.m.accounts))].key)
		}
	}
	for range 1 + w.pick(6) {
		b.Records = append(b.Records, Record{uint32(w.pick(len(b.New) + len(w.m.accounts) + w.pick(2))), w.amount()})
	}
	return b
}

// tx is a transaction by an account that may do it, or nearly.
func (w *walker) tx() *Tx {
	from := w.pick(len(w.m.accounts))
	body := w.body(from)
	t := &Tx{Chain: w.m.p.Chain, Body: body, Expiry: w.m.now/1000 + uint64(w.pick(20))}
	var id top.ID
	switch b := body.(type) {
	case *Claim:
		id = b.Claim.Voucher.Channel
	case *Close:
		id = b.Channel
	case *Reclaim:
		id = b.Channel
	}
	byNode := false
	if c := w.m.channels[id]; c != nil && w.pick(10) > 0 {
		from = c.payer
		if _, claim := body.(*Claim); claim || body.Kind() == KindClose && w.pick(2) == 0 {
			from, byNode = c.provider, w.pick(2) == 0
		}
	}
	a := w.m.accounts[from]
	t.From, t.Key = uint32(from), a.key
	if byNode && !a.node.IsZero() {
		t.Key = a.node
	}
	if c := w.m.channels[id]; c == nil || c.provider != from || w.pick(10) == 0 {
		t.Nonce = a.high + 1
	}
	switch w.pick(20) {
	case 0:
		t.Nonce = a.high + uint64(w.pick(100)) - min(a.high, 50)
	case 1:
		t.Key = w.m.accounts[w.pick(len(w.m.accounts))].key
	case 2:
		t.From = uint32(w.pick(len(w.m.accounts) + 2))
	case 3:
		t.Nonce = a.high + maxNonceJump + uint64(w.pick(2))
	}
	if w.pick(200) == 0 {
		t.Chain[7] ^= 1
	}
	return t
}

// walkSteps is the length of the walk.
const walkSteps = 100_000

// The ledger does what the slow model does, transaction by transaction, and money
// is conserved after each (L1, L2, L3, L4, L5, L6); a snapshot on the way is the
// same state (L7).
func TestModelWalk(t *testing.T) {
	w, s := newWalk(t, 20261123)
	done := map[Kind]int{}
	for step := range walkSteps {
		if step%20 == 0 {
			height, now := uint64(step/20+1), w.m.now+uint64(w.pick(6000))
			s.Begin(top.Height(height), now)
			w.m.begin(height, now)
		}
		tx := w.tx()
		size := 100 + w.pick(100)
		r := s.Apply(tx, size)
		want := w.m.apply(tx, size)
		if r.Kind != want.kind || int64(r.Fee) != want.fee || r.Free != want.free || int64(r.Paid) != want.paid {
			t.Fatalf("step %d, %s: %+v, model %+v", step, tx.Body.Kind(), r, want)
		}
		if r.Code == 0 {
			done[tx.Body.Kind()]++
		}
		if err := s.Check(); err != nil {
			t.Fatalf("step %d, %s: %v", step, tx.Body.Kind(), err)
		}
		if err := w.m.conserved(); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		if err := w.m.same(s); step%50 == 0 && err != nil {
			t.Fatalf("step %d, %s: %v", step, tx.Body.Kind(), err)
		}
		if step%5000 == 0 {
			again, err := Load(s.Encode())
			if err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
			if again.Root() != s.Root() {
				t.Fatalf("step %d: the root after a snapshot is another", step)
			}
			s = again
		}
		w.refresh()
	}
	if err := w.m.same(s); err != nil {
		t.Fatal(err)
	}
	for k := KindTransfer; k <= KindMailbox; k++ {
		if done[k] < walkSteps/1000 {
			t.Errorf("only %d of %d steps were a %s that worked", done[k], walkSteps, k)
		}
	}
	t.Logf("%d accounts, %d channels, done %v", s.Accounts(), len(s.channel), done)
}

// refresh keeps a few addresses that have no account.
func (w *walker) refresh() {
	w.spare = slices.DeleteFunc(w.spare, func(a top.Address) bool { _, ok := w.m.byKey[a]; return ok })
	for len(w.spare) < 4 && len(w.m.accounts) < 60 {
		var seed [32]byte
		for i := range seed {
			seed[i] = byte(w.r.Uint32())
		}
		k := keys.FromSeed(seed)
		w.keys[k.Public()] = k
		w.spare = append(w.spare, k.Public())
	}
}

func newWalk(t *testing.T, seed uint64) (*walker, *State) {
	t.Helper()
	w := &walker{r: rand.New(rand.NewPCG(seed, 1)), keys: map[top.Address]keys.Private{}, made: map[top.ID]voucherKit{}}
	g := Genesis{Params: DefaultParams(top.ChainID{1, 2, 3}), Time: 1_800_000_000}
	g.Params.FeePerByte, g.Params.AccountFee, g.Params.AllowanceBytes = 3, 500, 400
	g.Params.UnlockSeconds, g.Params.DeadlineSec, g.Params.DeadlineBlocks = 20, 10, 3
	for i := range 5 {
		k := keys.FromSeed([32]byte{byte(i), 9})
		w.keys[k.Public()] = k
		g.Accounts = append(g.Accounts, GenesisAccount{k.Public(), 100 * top.One, top.Amount(i) * 2 * top.One})
		w.nodes = append(w.nodes, keys.FromSeed([32]byte{byte(i), 10}))
	}
	s, err := New(g)
	if err != nil {
		t.Fatal(err)
	}
	w.m = newModel(g)
	w.refresh()
	return w, s
}
