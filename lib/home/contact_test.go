package home

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"top/lib/top"
)

func TestContacts(t *testing.T) {
	d := Dir(t.TempDir())
	if all, err := Contacts(d); err != nil || len(all) != 0 {
		t.Fatalf("a new home: %v %v", all, err)
	}
	a, b := top.Address{1}, top.Address{2}
	for name, at := range map[string]top.Address{"bob": b, "alice": a, "0.a_b-c": a, strings.Repeat("n", 32): b} {
		if err := d.AddContact(name, at); err != nil {
			t.Fatal(err)
		}
		if err := d.AddContact(name, at); err != nil {
			t.Errorf("the same again: %v", err)
		}
	}
	all, err := Contacts(d)
	var names []string
	for _, c := range all {
		names = append(names, c.Name)
	}
	if err != nil || !slices.IsSorted(names) || len(all) != 4 || all[1] != (Contact{"contact", "alice", a}) {
		t.Errorf("%v %v", all, err)
	}
	if st, err := os.Stat(d.contacts()); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	if got, err := os.ReadFile(d.contacts()); err != nil || !strings.Contains(string(got), `{"type":"contact","name":"bob","address":"`+b.String()+"\"}\n") {
		t.Errorf("%s %v", got, err)
	}
	err = d.AddContact("bob", a)
	if !errors.Is(err, top.ErrBusy) || !strings.Contains(err.Error(), "top-wallet contact rm bob") || !strings.Contains(err.Error(), b.String()) {
		t.Errorf("bob is another: %v", err)
	}
	if err := d.RemoveContact("bob"); err != nil {
		t.Fatal(err)
	}
	if err := d.RemoveContact("bob"); !errors.Is(err, top.ErrNotFound) || !strings.Contains(err.Error(), "top-wallet contact list") {
		t.Errorf("bob is gone: %v", err)
	}
	if err := d.AddContact("bob", a); err != nil {
		t.Errorf("bob is free: %v", err)
	}
}

func TestResolve(t *testing.T) {
	d, a := Dir(t.TempDir()), top.Address{7}
	if err := d.AddContact("bob", a); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"bob", a.String()} {
		if got, err := Resolve(d, s); err != nil || got != a {
			t.Errorf("%s: %s %v", s, got, err)
		}
	}
	for _, s := range []string{"", "alice", "Bob", "bo", top.NodeID(a).String()} {
		_, err := Resolve(d, s)
		if !errors.Is(err, top.ErrNotFound) || !strings.Contains(err.Error(), "top-wallet contact add "+s+" ADDRESS") {
			t.Errorf("%q: %v", s, err)
		}
	}
	// What looks like an address is never looked up as a name.
	wrong := strings.Replace(a.String(), "q", "p", 1)
	if _, err := Resolve(d, wrong); !errors.Is(err, top.ErrInvalid) {
		t.Errorf("%s: %v", wrong, err)
	}
}

func TestContactsThatAreRefused(t *testing.T) {
	d := Dir(t.TempDir())
	for _, name := range []string{
		"", "A", "bob ", " bob", "-x", ".x", "_x", "a/b", "a\n", "é", strings.Repeat("n", 33), "top1", "top1x", top.Address{1}.String(), top.NodeID{1}.String(),
	} {
		if err := d.AddContact(name, top.Address{1}); !errors.Is(err, top.ErrInvalid) || !strings.Contains(err.Error(), "want 1 to 32") {
			t.Errorf("name %q: %v", name, err)
		}
	}
	// The zero address was once written, and the file never read again.
	if err := d.AddContact("nobody", top.Address{}); !errors.Is(err, top.ErrInvalid) || !strings.Contains(err.Error(), "top-wallet contact add nobody ADDRESS") {
		t.Errorf("no address: %v", err)
	}
	if _, err := os.Stat(d.contacts()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused contact made the file: %v", err)
	}
	good := `{"type":"contact","name":"bob","address":"` + top.Address{1}.String() + `"}`
	for _, bad := range []string{
		"x", "[]", `"bob"`, "null", "{}", strings.Replace(good, "contact", "kontakt", 1), strings.Replace(good, "bob", "Bob", 1),
		strings.Replace(good, "top1", "top2", 1), `{"type":"contact","name":"bob"}`, good + good, good[:len(good)-1] + strings.Repeat(" ", maxContact) + "}",
	} {
		if err := os.WriteFile(d.contacts(), []byte(good+"\n"+bad+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Contacts(d)
		if !errors.Is(err, top.ErrInvalid) || !strings.Contains(err.Error(), d.contacts()+", line 2 (mend") {
			t.Errorf("%.80q: %v", bad, err)
		}
		// Nothing is changed of a file that is not understood.
		if err := d.AddContact("carol", top.Address{3}); !errors.Is(err, top.ErrInvalid) {
			t.Errorf("%.80q: added to: %v", bad, err)
		}
		if b, err := os.ReadFile(d.contacts()); err != nil || string(b) != good+"\n"+bad+"\n" {
			t.Errorf("%.80q: written over: %v", bad, err)
		}
	}
	if err := os.Remove(d.contacts()); err != nil {
		t.Fatal(err)
	}
	mkdir(t, d.contacts())
	if _, err := Contacts(d); err == nil || !strings.Contains(err.Error(), "read contacts") {
		t.Errorf("a folder: %v", err)
	}
	if _, err := Resolve(d, "bob"); err == nil {
		t.Error("a folder resolves")
	}
}

func TestContactsChangeOneAtATime(t *testing.T) {
	d := Dir(t.TempDir())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for {
				err := d.AddContact(fmt.Sprintf("n%d", i), top.Address{byte(i + 1)})
				if !errors.Is(err, top.ErrBusy) {
					if err != nil {
						t.Error(err)
					}
					return
				}
				if !strings.Contains(err.Error(), "try again") || strings.Contains(err.Error(), "kill") {
					t.Errorf("busy: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if all, err := Contacts(d); err != nil || len(all) != 8 {
		t.Errorf("%d contacts of 8: %v", len(all), err)
	}
}

func FuzzContacts(f *testing.F) {
	f.Add([]byte(`{"type":"contact","name":"bob","address":"`+top.Address{1}.String()+"\"}\n\n"), "bob")
	f.Add([]byte("null\n{}"), "top1")
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		d := Dir(t.TempDir())
		if err := os.WriteFile(d.contacts(), b, 0o600); err != nil {
			t.Fatal(err)
		}
		before, err := Contacts(d)
		if err != nil {
			if !errors.Is(err, top.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		known := find(before, name) >= 0
		if err := d.AddContact(name, top.Address{9}); err != nil {
			if !errors.Is(err, top.ErrInvalid) && !(known && errors.Is(err, top.ErrBusy)) {
				t.Fatal(err)
			}
			return
		}
		after, err := Contacts(d)
		if err != nil || len(after) < len(before) {
			t.Fatalf("%d contacts, then %d: %v", len(before), len(after), err)
		}
		if got, err := Resolve(d, name); err != nil || got != (top.Address{9}) {
			t.Fatalf("%q: %s %v", name, got, err)
		}
	})
}
