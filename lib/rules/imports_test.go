package rules

import (
	"fmt"
	"go/ast"
	"go/token"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// floors says which of our rooms each room may import (docs/architecture.md,
// "Which way imports point"). Commands and engines have a rule of their own.
var floors = map[string]string{
	"top":  "",
	"wire": "top", "pipe": "top",
	"edwards": "",
	"keys":    "top wire edwards", "home": "top keys", "sock": "top home",
	"tool": "top pipe", "api": "top wire pipe sock keys", "mesh": "top keys",
	"session": "top wire keys hashchain", "delivery": "top keys session", "audit": "top wire keys", "capacity": "top wire keys", "envelope": "top wire keys", "cross": "top wire keys",
	"netstack": "top", "socks": "top",
	"hashchain": "top",
	"receipt":   "top wire keys session",
	"billing":   "top receipt session",
	"quality":   "top receipt capacity",
	"route":     "top quality",
	"stake":     "top wire",
	"ledger":    "top wire keys session receipt billing stake audit capacity quality cross route",
	"settle":    "top home keys session receipt ledger api",
	"pool":      "top keys ledger",
	"explorer":  "top api",
	"load":      "top keys hashchain session ledger sock api",
	"daemon":    "top home sock api tool",
	"wg":        "top wire",
	"flow":      "",
	"carry":     "top",
	"policy":    "top",
	"netcfg":    "top policy",
	"rules":     "",
	// For tests alone.
	"tool/tooltest": "",
	"testnet":       "*",
	"scripts":       "*",
}

const (
	engines = "wallet chain relay vpn media store"
	pure    = "hashchain session delivery receipt billing stake ledger flow policy cross audit capacity quality route"
	ground  = "top wire pipe sock home keys"
	tests   = "testnet tool/tooltest"
)

// engineOf is the one engine that a command drives; "" is none.
var engineOf = map[string]string{
	"top-chain": "chain", "top-wallet": "wallet", "top-relay": "relay", "top-vpn": "vpn", "top-media": "media", "top-store": "store",
	"top-prove": "", "top-tui": "",
}

func isOne(name, list string) bool { return slices.Contains(strings.Fields(list), name) }

// mayImport says whether a room may import another of ours.
func mayImport(from, to string) (ok, known bool) {
	if cmd, isCmd := strings.CutPrefix(from, "cmd/"); isCmd {
		engine, known := engineOf[cmd]
		if cmd == "top-tui" {
			return isOne(to, "tool home api top pipe sock"), known
		}
		return isOne(to, "tool daemon api settle load explorer "+ground+" "+pure) || to == engine && engine != "", known
	}
	from = strings.TrimPrefix(from, "lib/")
	if isOne(from, engines) {
		return isOne(to, "mesh api settle pool netstack socks carry netcfg policy wg flow "+ground+" envelope "+pure), true
	}
	list, known := floors[from]
	return list == "*" || isOne(to, list), known
}

func importsPointDown(h *house) (found []breach) {
	for _, s := range h.gos {
		for _, i := range s.Imports {
			name, _ := strconv.Unquote(i.Path.Value)
			to, inLib := strings.CutPrefix(name, "top/lib/")
			if !inLib && !strings.HasPrefix(name, "top/") {
				continue
			}
			// A test may use any room of the ground, and what is made for tests.
			if s.test && (isOne(to, ground+" "+tests) || "lib/"+to == s.room || isOne(to, pure)) {
				continue
			}
			if ok, known := mayImport(s.room, to); !known {
				found = append(found, breach{rule: "import", subject: s.room + "->" + to, why: s.room + " is not in the table of rooms"})
			} else if !ok || !inLib {
				found = append(found, breach{rule: "import", subject: s.room + "->" + to, why: h.at(i.Pos()) + ": not a lower floor"})
			}
		}
	}
	return found
}

func TestR1_ImportsPointDown(t *testing.T) {
	hold(t, importsPointDown(ours(t)))
	for name, tc := range map[string][3]string{
		"up":           {"lib/top/a.go", "top/lib/wire", "errors"},
		"across":       {"lib/relay/a.go", "top/lib/store", "top/lib/ledger"},
		"engine":       {"cmd/top-relay/a.go", "top/lib/store", "top/lib/relay"},
		"keys in tui":  {"cmd/top-tui/a.go", "top/lib/keys", "top/lib/api"},
		"command":      {"lib/chain/a.go", "top/cmd/top-chain", "top/lib/home"},
		"test room":    {"lib/chain/a.go", "top/lib/testnet", "top/lib/mesh"},
		"test of pure": {"lib/session/a_test.go", "top/lib/chain", "top/lib/home"},
		"unknown room": {"lib/util/a.go", "top/lib/top", "errors"},
	} {
		file := func(imp string) string { return fmt.Sprintf("package a\nimport _ %q", imp) }
		catches(t, importsPointDown, name, tc[0], file(tc[1]), file(tc[2]))
	}
}

// homesOf lists the rooms that may import modules with a prefix.
var homesOf = map[string]string{
	"github.com/urfave/cli":                "lib/tool",
	"github.com/cometbft/":                 "lib/chain",
	"github.com/syndtr/":                   "lib/chain",
	"github.com/libp2p/":                   "lib/mesh lib/relay lib/store",
	"github.com/multiformats/":             "lib/mesh lib/relay lib/store",
	"github.com/pion/":                     "lib/media",
	"github.com/emiago/":                   "lib/media",
	"github.com/bluenviron/":               "lib/media",
	"golang.zx2c4.com/":                    "lib/wg scripts",
	"github.com/quic-go/":                  "lib/carry",
	"github.com/coder/websocket":           "lib/carry",
	"rsc.io/qr":                            "cmd/top-vpn",
	"gvisor.dev/":                          "lib/netstack",
	"github.com/vishvananda/":              "lib/netcfg scripts",
	"github.com/google/nftables":           "lib/netcfg",
	"github.com/mdlayher/":                 "lib/netcfg",
	"github.com/ipfs/":                     "lib/store",
	"github.com/charmbracelet/":            "cmd/top-tui",
	"charm.land/":                          "cmd/top-tui",
	"github.com/tyler-smith/go-bip39":      "lib/keys",
	"github.com/oasisprotocol/curve25519-": "lib/keys",
	"golang.org/x/crypto/":                 "lib/keys lib/envelope lib/wg",
	"github.com/thomas-vilte/mls-go":       "lib/envelope",
	"github.com/rogpeppe/go-internal":      "lib/tool/tooltest",
	"github.com/prometheus/":               "",
	"github.com/spf13/":                    "",
	"github.com/stretchr/":                 "",
	"cosmossdk.io/":                        "",
	"github.com/cosmos/":                   "lib/chain",
	"github.com/dgraph-io/":                "",
	"github.com/ethereum/":                 "",
	"google.golang.org/grpc":               "",
	"github.com/go-kit/":                   "",
	"go.uber.org/zap":                      "",
	"github.com/sirupsen/":                 "",
	"go.uber.org/fx":                       "",
	"github.com/hashicorp/":                "",
	"github.com/google/wire":               "",
	"k8s.io/":                              "",
	"gopkg.in/yaml":                        "",
	"go.yaml.in/":                          "",
	"github.com/pelletier/":                "",
	"github.com/BurntSushi/":               "",
}

func oneRoomEach(h *house) (found []breach) {
	for _, s := range h.gos {
		for _, i := range s.Imports {
			name, _ := strconv.Unquote(i.Path.Value)
			for prefix, homes := range homesOf {
				if strings.HasPrefix(name, prefix) && !isOne(s.room, homes) && !(s.test && prefix == "github.com/rogpeppe/go-internal") {
					found = append(found, breach{rule: "dependency", subject: s.room + "->" + name, why: fmt.Sprintf("%s: belongs to %q", h.at(i.Pos()), homes)})
				}
			}
		}
	}
	return found
}

func TestR2_ABigDependencyHasOneRoom(t *testing.T) {
	hold(t, oneRoomEach(ours(t)))
	bad, good := `package a; import _ "github.com/urfave/cli/v2"`, `package a; import _ "golang.org/x/sync/errgroup"`
	catches(t, oneRoomEach, "flags", "cmd/top-chain/a.go", bad, good)
	catches(t, oneRoomEach, "consensus", "lib/wallet/a_test.go", `package a; import _ "github.com/cometbft/cometbft/types"`, good)
	catches(t, oneRoomEach, "libp2p", "lib/chain/a.go", `package a; import _ "github.com/libp2p/go-libp2p/core/host"`, good)
}

// pureImports is all that a pure room needs of the standard library.
const pureImports = "bytes cmp container/heap crypto/sha256 crypto/sha512 crypto/subtle encoding encoding/base64 encoding/binary encoding/hex " +
	"encoding/json errors fmt hash io iter maps math math/bits net/netip slices sort strconv strings sync time unicode unicode/utf8"

// pureRooms checks the economy, and the ground on which it stands: top and wire.
func pureRooms(h *house) (found []breach) {
	for _, s := range h.gos {
		if s.test || !isOne(strings.TrimPrefix(s.room, "lib/"), pure+" top wire") {
			continue
		}
		add := func(pos token.Pos, what string) {
			found = append(found, breach{rule: "pure", subject: s.path + "->" + what, why: h.at(pos) + ": " + what + " in a pure room"})
		}
		for _, i := range s.Imports {
			name, _ := strconv.Unquote(i.Path.Value)
			if !strings.HasPrefix(name, "top/") && !isOne(name, pureImports) {
				add(i.Pos(), name)
			}
		}
		ast.Inspect(s.File, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				add(n.Pos(), "go")
			case *ast.SelectStmt, *ast.ChanType:
				add(n.Pos(), "channel")
			case *ast.Ident:
				if isOne(n.Name, "float32 float64 complex64 complex128") {
					add(n.Pos(), n.Name)
				}
			case *ast.BasicLit:
				if n.Kind == token.FLOAT || n.Kind == token.IMAG {
					add(n.Pos(), "float")
				}
			case *ast.SelectorExpr:
				if is(n, "time", "Now", "Since", "Until", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "Sleep", "Local", "LoadLocation") {
					add(n.Pos(), "time."+n.Sel.Name)
				}
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "math" && !strings.HasPrefix(n.Sel.Name, "Max") && !strings.HasPrefix(n.Sel.Name, "Min") {
					add(n.Pos(), "math."+n.Sel.Name)
				}
			}
			return true
		})
	}
	return found
}

// is says whether n is one of a package's names.
func is(n *ast.SelectorExpr, pkg string, names ...string) bool {
	x, ok := n.X.(*ast.Ident)
	return ok && x.Name == pkg && slices.Contains(names, n.Sel.Name)
}

func TestR3_PureRoomsArePure(t *testing.T) {
	hold(t, pureRooms(ours(t)))
	for bad, good := range map[string]string{
		`import _ "os"`:           `import _ "errors"`,
		`import _ "math/rand/v2"`: `import _ "math/bits"`,
		`func f() { go f() }`:     `func f() { f() }`,
		`func f(c chan int) {}`:   `func f(c []int) {}`,
		`const x = 0.5`:           `const x = 5`,
		`func f(x float64) {}`:    `func f(x uint64) {}`,
		`import "time"; func f() time.Time {return time.Now()}`: `import "time"; func f(t time.Time) time.Time {return t}`,
		`import "math"; var x = math.Sqrt(4)`:                   `import "math"; var x = math.MaxInt`,
	} {
		catches(t, pureRooms, bad, "lib/session/a.go", "package a;"+bad, "package a;"+good)
	}
}

// plainNames looks at names of rooms and of imports.
func plainNames(h *house) (found []breach) {
	for _, room := range h.rooms() {
		name := path.Base(room)
		if isOne(name, "util utils common types base helpers misc internal pkg") || standard()[name] {
			found = append(found, breach{rule: "name", subject: room, why: "name the room after its noun, and after no package of the standard library"})
		}
		if strings.Count(room, "/") > 1 && !strings.HasSuffix(room, "test") || !strings.HasPrefix(room, "lib/") && !strings.HasPrefix(room, "cmd/") && room != "." {
			found = append(found, breach{rule: "name", subject: room, why: "a room is lib/NOUN or cmd/top-NOUN"})
		}
	}
	for _, s := range h.gos {
		for _, i := range s.Imports {
			if i.Name != nil && strings.HasPrefix(i.Path.Value, `"top/`) && i.Name.Name != "_" {
				found = append(found, breach{rule: "name", subject: s.path + "->" + strings.Trim(i.Path.Value, `"`), why: h.at(i.Pos()) + ": renames an import of ours"})
			}
		}
	}
	return found
}

// standard is the last elements of the import paths of the standard library.
func standard() map[string]bool {
	names := map[string]bool{}
	for p := range strings.FieldsSeq("archive bufio bytes cmp compress container context crypto database debug embed encoding errors expvar flag fmt go hash html " +
		"image index io iter log maps math mime net os path plugin reflect regexp runtime slices sort strconv strings structs sync syscall testing text " +
		"time unicode unique unsafe weak rand big bits http url json xml csv hex base64 binary exec signal user filepath fs rpc mail ast token parser build") {
		names[p] = true
	}
	return names
}

func TestR4_NamesNeedNoRenaming(t *testing.T) {
	hold(t, plainNames(ours(t)))
	catches(t, plainNames, "renamed", "lib/x/a.go", `package x; import t "top/lib/top"`, `package x; import b "bytes"`)
	for _, room := range []string{"lib/util", "lib/rand", "lib/x/y", "pkg/x", "internal"} {
		h, err := build(map[string]string{room + "/a.go": "package a"})
		if err != nil || len(plainNames(h)) == 0 {
			t.Errorf("%s: accepted (%v)", room, err)
		}
	}
}

func TestR5_TheWalletAndTheWindowLinkNoEngineRoom(t *testing.T) {
	h := ours(t)
	deps := func(room string) string {
		out, err := exec.Command("go", "list", "-deps", "top/"+room).Output()
		if err != nil {
			t.Fatalf("go list -deps %s: %v", room, err)
		}
		return string(out)
	}
	banned := []string{"github.com/cometbft/", "github.com/libp2p/", "github.com/pion/", "github.com/ipfs/boxo", "golang.zx2c4.com/wireguard"}
	for _, room := range []string{"cmd/top-wallet", "cmd/top-tui", "cmd/top-prove"} {
		if !slices.Contains(h.rooms(), room) {
			continue
		}
		for dep := range strings.Lines(deps(room)) {
			for _, b := range banned {
				if strings.HasPrefix(dep, b) {
					t.Errorf("%s links %s", room, strings.TrimSpace(dep))
				}
			}
		}
	}
	// The look works: the node links consensus.
	if slices.Contains(h.rooms(), "cmd/top-chain") && !strings.Contains(deps("cmd/top-chain"), banned[0]) {
		t.Error("go list -deps does not name what top-chain links")
	}
}
