package main

import (
	"context"

	"top/lib/daemon"
	"top/lib/home"
	"top/lib/tool"
	"top/lib/top"
)

func contactVerb() tool.Verb {
	return tool.Verb{
		Name: "contact", Summary: "names for addresses, on this machine", Verbs: []tool.Verb{
			{
				Name: "add", Summary: "give an address a name that every command accepts",
				Args:     []tool.Arg{{Name: "NAME", Help: "a-z, 0-9, dot, dash, underscore"}, {Name: "ADDRESS", Help: "top1…"}},
				Records:  []string{"contact"},
				Examples: []string{"top-wallet contact add bob top1…"},
				Run: func(_ context.Context, c *tool.Call) error {
					dir, err := daemon.Home(c)
					if err != nil {
						return err
					}
					a, err := top.ParseAddress(c.Arg(1))
					if err != nil {
						return err
					}
					if err := dir.AddContact(c.Arg(0), a); err != nil {
						return err
					}
					return c.Emit(home.Contact{Type: "contact", Name: c.Arg(0), Address: a}, "%s is %s", c.Arg(0), a)
				},
			},
			{
				Name: "list", Summary: "print the contacts", Records: []string{"contact"},
				Examples: []string{"top-wallet contact list --json"},
				Run: func(_ context.Context, c *tool.Call) error {
					dir, err := daemon.Home(c)
					if err != nil {
						return err
					}
					all, err := home.Contacts(dir)
					if err != nil {
						return err
					}
					for _, k := range all {
						if err := c.Emit(k, "%-16s %s", k.Name, k.Address); err != nil {
							return err
						}
					}
					return nil
				},
			},
			{
				Name: "rm", Summary: "take a name away", Args: []tool.Arg{{Name: "NAME", Help: "of a contact"}},
				Examples: []string{"top-wallet contact rm bob"},
				Run: func(_ context.Context, c *tool.Call) error {
					dir, err := daemon.Home(c)
					if err != nil {
						return err
					}
					return dir.RemoveContact(c.Arg(0))
				},
			},
		},
	}
}
