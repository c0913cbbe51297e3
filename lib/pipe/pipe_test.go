package pipe

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"top/lib/top"
)

func TestP1_OneObjectALine(t *testing.T) {
	var out bytes.Buffer
	w := NewWriter(&out)
	if err := w.Write(map[string]string{"type": "note", "text": "a\nb <&>"}); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != `{"text":"a\nb <&>","type":"note"}`+"\n" {
		t.Errorf("written %q", got)
	}
	r := NewReader(iotest.OneByteReader(&out))
	rec, err := r.Next()
	if err != nil || rec.Type != "note" || rec.Line != 1 {
		t.Fatalf("%+v %v", rec, err)
	}
	var v struct{ Text string }
	if err := rec.Decode(&v); err != nil || v.Text != "a\nb <&>" {
		t.Errorf("%+v %v", v, err)
	}
	if err := rec.Decode(new(struct{ Text int })); !errors.Is(err, top.ErrInvalid) || !strings.Contains(err.Error(), "line 1") {
		t.Error(err)
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if err := w.Write(map[string]string{"type": "note", "text": strings.Repeat("x", MaxRecord)}); !errors.Is(err, top.ErrInvalid) {
		t.Errorf("a record of more than 1 MiB: %v", err)
	}
	if err := w.Write(func() {}); err == nil {
		t.Error("a function is a record")
	}
}

func TestP2_ABadLineCostsItself(t *testing.T) {
	long := `{"type":"x","s":"` + strings.Repeat("y", MaxRecord) + `"}`
	exact := `{"type":"exact","s":"` + strings.Repeat("y", MaxRecord-len(`{"type":"exact","s":""}`)) + `"}`
	in := strings.Join([]string{`{"type":"one"}`, "", "nonsense", `[1]`, `{"no":"type"}`, `{"type":7}`, long, exact, "  \r", `{"type":"last"}`}, "\n")
	r := NewReader(strings.NewReader(in))
	var got []string
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		switch {
		case err == nil:
			got = append(got, rec.Type)
		case errors.Is(err, top.ErrInvalid) && strings.Contains(err.Error(), "line "):
			got = append(got, "bad "+strings.Fields(err.Error())[1])
		default:
			t.Fatal(err)
		}
	}
	if want := "one bad 3: bad 4: bad 5: bad 6: bad 7: exact last"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
	if _, err := NewReader(iotest.ErrReader(io.ErrClosedPipe)).Next(); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a broken stream: %v", err)
	}
}

func TestP2_TheLastLineHasALimitToo(t *testing.T) {
	fill := func(n int) string {
		return `{"type":"x","s":"` + strings.Repeat("y", n-len(`{"type":"x","s":""}`)) + `"}`
	}
	for _, end := range []string{"", "\n"} {
		if rec, err := NewReader(strings.NewReader(fill(MaxRecord) + end)).Next(); err != nil || len(rec.Raw) != MaxRecord {
			t.Errorf("1 MiB before %q: %d bytes, %v", end, len(rec.Raw), err)
		}
		if _, err := NewReader(strings.NewReader(fill(MaxRecord+1) + end)).Next(); !errors.Is(err, top.ErrInvalid) {
			t.Errorf("a byte more before %q: %v", end, err)
		}
	}
	r := NewReader(strings.NewReader("{\"type\":\"\xff\"}\n{\"type\":\"b\"}\r\n"))
	if _, err := r.Next(); !errors.Is(err, top.ErrInvalid) || !strings.Contains(err.Error(), "line 1: not UTF-8") {
		t.Errorf("what is no UTF-8: %v", err)
	}
	if rec, err := r.Next(); err != nil || string(rec.Raw) != `{"type":"b"}` || rec.Line != 2 {
		t.Errorf("the next line: %+v %v", rec, err)
	}
}

func TestP1_OnlyObjectsAreWritten(t *testing.T) {
	for _, v := range []any{nil, 5, "text", []int{1}, true, (*struct{})(nil)} {
		if b, err := Line(v); !errors.Is(err, top.ErrInvalid) || b != nil {
			t.Errorf("%v: %q %v", v, b, err)
		}
	}
	if b, err := Line(Gap{"gap", 12}); err != nil || string(b) != `{"type":"gap","lost":"12"}`+"\n" {
		t.Errorf("%s %v", b, err)
	}
	if err := NewWriter(failing{}).Write(Gap{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a writer that fails: %v", err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestP3_AFailedReadIsNoEnd(t *testing.T) {
	for _, sent := range []string{"", "\x00\x00", "\x00\x00\x00\x05", "\x00\x00\x00\x05abc"} {
		broken := io.MultiReader(strings.NewReader(sent), iotest.ErrReader(io.ErrClosedPipe))
		if _, err := ReadFrame(broken); !errors.Is(err, io.ErrClosedPipe) || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("after %q: %v", sent, err)
		}
	}
	if err := WriteFrame(io.Discard, nil); !errors.Is(err, top.ErrInvalid) {
		t.Errorf("an empty frame, which would end the stream: %v", err)
	}
}

func TestP3_Frames(t *testing.T) {
	var b bytes.Buffer
	for _, f := range []string{"one", strings.Repeat("z", MaxRecord)} {
		if err := WriteFrame(&b, []byte(f)); err != nil {
			t.Fatal(err)
		}
	}
	whole := b.Len()
	if err := EndFrames(&b); err != nil {
		t.Fatal(err)
	}
	all := b.Bytes()
	r := bytes.NewReader(all)
	for _, want := range []int{3, MaxRecord} {
		if f, err := ReadFrame(r); err != nil || len(f) != want {
			t.Fatalf("%d bytes, %v", len(f), err)
		}
	}
	if _, err := ReadFrame(r); !errors.Is(err, io.EOF) {
		t.Errorf("the end: %v", err)
	}
	// Cut anywhere, the stream did not end.
	for _, cut := range []int{0, 2, 5, whole, whole + 2} {
		r, err := bytes.NewReader(all[:cut]), error(nil)
		for err == nil {
			_, err = ReadFrame(r)
		}
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d it seems to end: %v", cut, err)
		}
	}
	if err := WriteFrame(io.Discard, make([]byte, MaxRecord+1)); !errors.Is(err, top.ErrInvalid) {
		t.Errorf("a frame of more than 1 MiB is written: %v", err)
	}
	if _, err := ReadFrame(strings.NewReader("\x00\x10\x00\x01")); !errors.Is(err, top.ErrInvalid) {
		t.Errorf("a frame of more than 1 MiB is read: %v", err)
	}
}

func TestP4_AQueueNeverBlocks(t *testing.T) {
	q := NewQueue(2)
	for i := range 5 {
		q.Put(i)
	}
	ctx, cancel := context.WithCancel(t.Context())
	want := []any{0, 1, Gap{"gap", 3}}
	for _, w := range want {
		if got, err := q.Next(ctx); err != nil || got != w {
			t.Fatalf("%v %v, want %v", got, err, w)
		}
	}
	done := make(chan any)
	go func() {
		v, _ := q.Next(ctx)
		done <- v
		_, err := q.Next(ctx)
		done <- err
	}()
	q.Put("late")
	if got := <-done; got != "late" {
		t.Errorf("%v", got)
	}
	cancel()
	if err := <-done; !errors.Is(err.(error), context.Canceled) {
		t.Error(err)
	}
}

func TestP4_AGapStandsWhereTheLossWas(t *testing.T) {
	q := NewQueue(2)
	next := func(want any) {
		t.Helper()
		if got, err := q.Next(t.Context()); err != nil || got != want {
			t.Fatalf("%v %v, want %v", got, err, want)
		}
	}
	for i := range 3 {
		q.Put(i)
	}
	next(0)
	q.Put(3) // there is room, but 2 was lost before it
	next(1)
	next(Gap{"gap", 2})
	q.Put(4)
	next(4)
	none := NewQueue(0)
	none.Put("x")
	if got, err := none.Next(t.Context()); err != nil || got != (Gap{"gap", 1}) {
		t.Errorf("no room at all: %v %v", got, err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("{\"type\":\"a\"}\n\nx\n{\"type\":\"b\"}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(bytes.NewReader(b))
		for n := 0; ; n++ {
			rec, err := r.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if n > len(b) {
				t.Fatal("more records than bytes")
			}
			if err == nil && (rec.Type == "" || bytes.IndexByte(rec.Raw, '\n') >= 0) {
				t.Fatalf("%+v", rec)
			}
		}
	})
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01a\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		in, out := bytes.NewReader(b), new(bytes.Buffer)
		for {
			frame, err := ReadFrame(in)
			if err != nil {
				if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
					EndFrames(out)
					if !bytes.HasPrefix(b, out.Bytes()) {
						t.Fatalf("%x is read and written %x", b, out.Bytes())
					}
				}
				return
			}
			if err := WriteFrame(out, frame); err != nil {
				t.Fatal(err)
			}
		}
	})
}
