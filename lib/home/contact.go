package home

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"

	"top/lib/top"
)

// A Contact is a local name for an address. It is known on this machine only.
type Contact struct {
	Type    string      `json:"type"` // "contact"
	Name    string      `json:"name"`
	Address top.Address `json:"address"`
}

// maxContact bounds one line of the contacts file.
const maxContact = 4 << 10

var contactName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,31}$`)

func (d Dir) contacts() string { return d.Path("contacts.ndjson") }

// Contacts lists the contacts of a home, by name. A home without any has none.
func Contacts(d Dir) ([]Contact, error) {
	b, err := os.ReadFile(d.contacts())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read contacts: %w", err)
	}
	var all []Contact
	for i, line := range strings.Split(strings.TrimRight(string(b), "\n"), "\n") {
		if line == "" {
			continue
		}
		c, err := parseContact(line)
		if err != nil {
			return nil, fmt.Errorf("%s, line %d (mend the line or delete it): %w", d.contacts(), i+1, err)
		}
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b Contact) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

func parseContact(line string) (c Contact, err error) {
	if len(line) > maxContact {
		return c, fmt.Errorf("longer than %d bytes: %w", maxContact, top.ErrInvalid)
	}
	if err := json.Unmarshal([]byte(line), &c); err != nil {
		return c, fmt.Errorf("not a contact: %v: %w", err, top.ErrInvalid)
	}
	if c.Type != "contact" || c.Address.IsZero() {
		return c, fmt.Errorf("not a contact: %w", top.ErrInvalid)
	}
	return c, checkName(c.Name)
}

// checkName refuses names that could be taken for something else.
func checkName(name string) error {
	if !contactName.MatchString(name) || strings.HasPrefix(name, "top1") {
		return top.Errorf(top.Invalid, "contact name %q: want 1 to 32 of a-z, 0-9, dot, dash and underscore, not beginning with top1", name)
	}
	return nil
}

// AddContact gives an address a name. A name that another address has is
// top.ErrBusy; adding the same again changes nothing.
func (d Dir) AddContact(name string, a top.Address) error {
	if err := checkName(name); err != nil {
		return err
	}
	if a.IsZero() {
		return top.Errorf(top.Invalid, "contact %s: no address (top-wallet contact add %[1]s ADDRESS)", name)
	}
	return d.editContacts(func(all []Contact) ([]Contact, error) {
		if i := find(all, name); i >= 0 {
			if all[i].Address == a {
				return all, nil
			}
			return nil, top.Errorf(top.Busy, "%s is the name of %s (top-wallet contact rm %[1]s takes it away)", name, all[i].Address)
		}
		return append(all, Contact{"contact", name, a}), nil
	})
}

// RemoveContact takes a name away.
func (d Dir) RemoveContact(name string) error {
	return d.editContacts(func(all []Contact) ([]Contact, error) {
		i := find(all, name)
		if i < 0 {
			return nil, top.Errorf(top.NotFound, "no contact %q (top-wallet contact list shows them)", name)
		}
		return slices.Delete(all, i, i+1), nil
	})
}

func find(all []Contact, name string) int {
	return slices.IndexFunc(all, func(c Contact) bool { return c.Name == name })
}

// editContacts changes the file as a whole, one process at a time.
func (d Dir) editContacts(edit func([]Contact) ([]Contact, error)) error {
	if err := d.Make(); err != nil {
		return err
	}
	release, err := Lock(d.contacts() + ".lock")
	if errors.Is(err, top.ErrBusy) {
		return top.Errorf(top.Busy, "another process changes the contacts of %s just now (try again)", d)
	}
	if err != nil {
		return err
	}
	defer release()
	all, err := Contacts(d)
	if err != nil {
		return err
	}
	if all, err = edit(all); err != nil {
		return err
	}
	var b strings.Builder
	for _, c := range all {
		line, err := json.Marshal(c)
		if err != nil {
			return fmt.Errorf("write contacts: %w", err)
		}
		b.Write(append(line, '\n'))
	}
	return WriteFile(d.contacts(), []byte(b.String()), 0o600)
}

// Resolve is the address that s is, or that has s as its name.
func Resolve(d Dir, s string) (top.Address, error) {
	if strings.HasPrefix(s, "top1") {
		return top.ParseAddress(s)
	}
	all, err := Contacts(d)
	if err != nil {
		return top.Address{}, err
	}
	if i := find(all, s); i >= 0 {
		return all[i].Address, nil
	}
	return top.Address{}, top.Errorf(top.NotFound, "%q is neither an address nor a contact (top-wallet contact add %[1]s ADDRESS makes it one)", s)
}
