package keys

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"top/lib/top"
)

type bip39Vector struct{ Entropy, Words, Seed string }

func TestK4_VectorsOfBIP39(t *testing.T) {
	var all []bip39Vector
	load(t, "bip39.json", &all)
	if len(all) != 24 {
		t.Fatalf("%d vectors", len(all))
	}
	for _, v := range all {
		if words, err := NewWords(unhex(t, v.Entropy)); err != nil || words != v.Words {
			t.Errorf("%s: %s, %v", v.Entropy, words, err)
		}
		// White space and capitals do not matter.
		for _, words := range []string{v.Words, " \t" + strings.ToUpper(strings.ReplaceAll(v.Words, " ", "\n ")) + "\r\n"} {
			if seed, err := SeedFromWords(words, "TREZOR"); err != nil || hex.EncodeToString(seed[:]) != v.Seed {
				t.Errorf("%q: %x, %v", words, seed, err)
			}
		}
	}
}

func TestWordsThatAreRefused(t *testing.T) {
	const good = "legal winner thank year wave sausage worth useful legal winner thank yellow"
	for name, tc := range map[string]struct{ words, pass, says string }{
		"no words":       {"", "", "0 words"},
		"a wrong word":   {strings.Replace(good, "year", "yeer", 1), "", `word 4, "yeer"`},
		"two swapped":    {strings.Replace(good, "legal winner", "winner legal", 1), "", "checksum"},
		"another word":   {strings.Replace(good, "yellow", "zoo", 1), "", "checksum"},
		"eleven":         {strings.TrimSuffix(good, " yellow"), "", "11 words"},
		"thirteen":       {good + " year", "", "13 words"},
		"twenty-seven":   {strings.Repeat("abandon ", 26) + "about", "", "27 words"},
		"not ASCII pass": {good, "schön", "ASCII"},
	} {
		seed, err := SeedFromWords(tc.words, tc.pass)
		if !errors.Is(err, top.ErrInvalid) || !strings.Contains(err.Error(), tc.says) || seed != [64]byte{} {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, n := range []int{0, 1, 12, 15, 17, 33, 64} {
		if w, err := NewWords(make([]byte, n)); !errors.Is(err, top.ErrInvalid) || w != "" {
			t.Errorf("%d bytes: %q %v", n, w, err)
		}
	}
}

func TestK4_VectorsOfSLIP10(t *testing.T) {
	// SLIP-0010, test vectors 1 and 2 for ed25519: path, private key, public key.
	for seed, rows := range map[string][]string{
		"000102030405060708090a0b0c0d0e0f": {
			"m 2b4be7f19ee27bbf30c667b642d5f4aa69fd169872f8fc3059c08ebae2eb19e7 a4b2856bfec510abab89753fac1ac0e1112364e7d250545963f135f2a33188ed",
			"m/0' 68e0fe46dfb67e368c75379acec591dad19df3cde26e63b93a8e704f1dade7a3 8c8a13df77a28f3445213a0f432fde644acaa215fc72dcdf300d5efaa85d350c",
			"m/0'/1' b1d0bad404bf35da785a64ca1ac54b2617211d2777696fbffaf208f746ae84f2 1932a5270f335bed617d5b935c80aedb1a35bd9fc1e31acafd5372c30f5c1187",
			"m/0'/1'/2' 92a5b23c0b8a99e37d07df3fb9966917f5d06e02ddbd909c7e184371463e9fc9 ae98736566d30ed0e9d2f4486a64bc95740d89c7db33f52121f8ea8f76ff0fc1",
			"m/0'/1'/2'/2' 30d1dc7e5fc04c31219ab25a27ae00b50f6fd66622f6e9c913253d6511d1e662 8abae2d66361c879b900d204ad2cc4984fa2aa344dd7ddc46007329ac76c429c",
			"m/0'/1'/2'/2'/1000000000' 8f94d394a8e8fd6b1bc2f3f49f5c47e385281d5c17e65324b0f62483e37e8793 3c24da049451555d51a7014a37337aa4e12d41e485abccfa46b47dfb2af54b7a",
		},
		"fffcf9f6f3f0edeae7e4e1dedbd8d5d2cfccc9c6c3c0bdbab7b4b1aeaba8a5a29f9c999693908d8a8784817e7b7875726f6c696663605d5a5754514e4b484542": {
			"m 171cb88b1b3c1db25add599712e36245d75bc65a1a5c9e18d76f9f2b1eab4012 8fe9693f8fa62a4305a140b9764c5ee01e455963744fe18204b4fb948249308a",
			"m/0' 1559eb2bbec5790b0c65d8693e4d0875b1747f4970ae8b650486ed7470845635 86fab68dcb57aa196c77c5f264f215a112c22a912c10d123b0d03c3c28ef1037",
			"m/0'/2147483647' ea4f5bfe8694d8bb74b7b59404632fd5968b774ed545e810de9c32a4fb4192f4 5ba3b9ac6e90e83effcd25ac4e58a1365a9e35a3d3ae5eb07b9e4d90bcf7506d",
			"m/0'/2147483647'/1' 3757c7577170179c7868353ada796c839135b3d30554bbb74a4b1e4a5a58505c 2e66aa57069c86cc18249aecf5cb5a9cebbfd6fadeab056254763874a9352b45",
			"m/0'/2147483647'/1'/2147483646' 5837736c89570de861ebc173b1086da4f505d4adb387c6a1b1342d5e4ac9ec72 e33c0f7d81d843c572275f287498e8d408654fdf0d1e065b84e2e6f157aab09b",
			"m/0'/2147483647'/1'/2147483646'/2' 551d333177df541ad876a60ea71f00447931c0a9da16f227c11ea080d7391b8d 47150c75db263559a70d5778bf36abbab30fb061ad69f69ece61a72b0cfa4fc0",
		},
	} {
		for _, row := range rows {
			f := strings.Fields(row)
			p, err := Derive(unhex(t, seed), f[0])
			if err != nil {
				t.Fatal(err)
			}
			if s, pub := p.Seed(), p.Public(); hex.EncodeToString(s[:]) != f[1] || hex.EncodeToString(pub[:]) != f[2] {
				t.Errorf("%s: %x %x", f[0], s, pub)
			}
		}
	}
}

func TestK4_AccountAndNode(t *testing.T) {
	seed, err := SeedFromWords("abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about", "")
	if err != nil {
		t.Fatal(err)
	}
	// What these words give is fixed for ever: whoever wrote them down relies on it.
	for path, want := range map[string]string{
		AccountPath: goldenAccount,
		NodePath:    goldenNode,
	} {
		p, err := Derive(seed[:], path)
		if err != nil {
			t.Fatal(err)
		}
		if got := top.Address(p.Public()).String(); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
}

func TestPathsThatAreRefused(t *testing.T) {
	seed := make([]byte, 32)
	for _, path := range []string{
		"", "/", "44'", "M/0'", "m/", "m/0", "m/0h", "m/-1'", "m/+1'", "m/'", "m/0''", "m//0'", "m/2147483648'", "m/99999999999999999999'", "m/0'/1", "m/ 0'", "m/00'", "m/01'", "m/0x1'",
	} {
		if _, err := Derive(seed, path); !errors.Is(err, top.ErrInvalid) || !strings.Contains(err.Error(), "path") {
			t.Errorf("%q: %v", path, err)
		}
	}
	for _, n := range []int{0, 15, 65} {
		if _, err := Derive(make([]byte, n), "m"); !errors.Is(err, top.ErrInvalid) || !strings.Contains(err.Error(), "16 to 64") {
			t.Errorf("a seed of %d bytes: %v", n, err)
		}
	}
}

func FuzzWords(f *testing.F) {
	f.Add(make([]byte, 16), "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo wrong")
	f.Add([]byte{1, 2, 3}, "LEGAL winner")
	f.Fuzz(func(t *testing.T, entropy []byte, text string) {
		words, err := NewWords(entropy)
		if ok := len(entropy) >= 16 && len(entropy) <= 32 && len(entropy)%4 == 0; ok != (err == nil) {
			t.Fatalf("%d bytes: %v", len(entropy), err)
		}
		if err == nil {
			a, err := SeedFromWords(words, "")
			if err != nil {
				t.Fatal(err)
			}
			if b, err := SeedFromWords("  "+strings.ToUpper(words), ""); err != nil || a != b {
				t.Fatalf("%q and its capitals differ: %v", words, err)
			}
		}
		if _, err := SeedFromWords(text, ""); err != nil && !errors.Is(err, top.ErrInvalid) {
			t.Fatal(err)
		}
	})
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"m", AccountPath, NodePath, "m/0", "m/2147483648'"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		a, err := Derive(make([]byte, 64), path)
		if err != nil {
			if !errors.Is(err, top.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if path != "m" && (!strings.HasPrefix(path, "m/") || !strings.HasSuffix(path, "'")) {
			t.Fatalf("%q is a path", path)
		}
		// A path has one text form: one step more is another key.
		if b, err := Derive(make([]byte, 64), path+"/0'"); err != nil || a.Public() == b.Public() {
			t.Fatal(path, err)
		}
	})
}

const (
	goldenAccount = "top1elrwh4vycr8hpennukdh9tvr84w5ltc65mwk9fptvqqutrd2jwes9c2k0y"
	goldenNode    = "top177aht5uuzmc7255xc05l887y6spwad30uwza38md8we5dj4arjgsglmxpw"
)
