package jwtproof

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
)

// nthDigest gives digests that fall into one shard.
func nthDigest(n int) (d digestOf) {
	binary.BigEndian.PutUint64(d[8:], uint64(n))
	return d
}

func count(m *memory) (entries, bytes int) {
	for i := range m.shards {
		entries += len(m.shards[i].entries)
		bytes += m.shards[i].bytes
	}
	return entries, bytes
}

func TestMemoryIsBoundedByCount(t *testing.T) {
	const perShard = defaultMemoryBytes / bytesForEach / memoryShards
	m := newMemory(defaultMemoryBytes)
	for n := range perShard {
		m.put(nthDigest(n), &remembered{until: time.Unix(int64(n), 0)})
	}
	if got, _ := count(m); got != perShard {
		t.Errorf("%d entries, expected %d", got, perShard)
	}
	for n := perShard; n < 2*perShard; n++ {
		m.put(nthDigest(n), &remembered{until: time.Unix(int64(n), 0)})
		if m.get(nthDigest(n)) == nil {
			t.Fatalf("entry %d was not kept", n)
		}
	}
	if got, _ := count(m); got != perShard {
		t.Errorf("%d entries, expected %d", got, perShard)
	}
	// Of a few, the one that ends first goes: what is left must end later on the whole.
	late := 0
	for n := perShard; n < 2*perShard; n++ {
		if m.get(nthDigest(n)) != nil {
			late++
		}
	}
	if late < perShard*3/4 || late == perShard { // all of them would mean that every eviction looked at every entry
		t.Errorf("%d of the %d that end last are left", late, perShard)
	}
}

func TestMemoryIsBoundedByBytes(t *testing.T) {
	const perShard = defaultMemoryBytes / memoryShards
	m := newMemory(defaultMemoryBytes)
	big := attest.Identity{Attrs: map[string][]string{"groups": {strings.Repeat("g", perShard/4)}}}
	for n := range 20 {
		m.put(nthDigest(n), &remembered{identity: big})
	}
	entries, bytes := count(m)
	if entries != 3 || bytes != 3*sizeOf(big) {
		t.Errorf("%d entries of %d bytes, expected 3 of %d together", entries, bytes, 3*sizeOf(big))
	}
	huge := attest.Identity{Subject: strings.Repeat("s", perShard)}
	m.put(nthDigest(99), &remembered{identity: huge})
	if m.get(nthDigest(99)) != nil {
		t.Error("an entry larger than its shard was kept")
	}
	fits := attest.Identity{}
	fits.Subject = strings.Repeat("s", perShard-sizeOf(fits))
	m.put(nthDigest(100), &remembered{identity: fits})
	if entries, bytes := count(m); entries != 1 || bytes != perShard || m.get(nthDigest(100)) == nil {
		t.Errorf("%d entries of %d bytes, expected the one of %d", entries, bytes, perShard)
	}
}

func TestMemoryCountsWhatItForgets(t *testing.T) {
	m := newMemory(defaultMemoryBytes)
	for range 2 { // the same one twice is one
		m.put(nthDigest(1), &remembered{identity: attest.Identity{Subject: "alice"}})
	}
	if entries, bytes := count(m); entries != 1 || bytes != sizeOf(attest.Identity{Subject: "alice"}) {
		t.Errorf("%d entries, %d bytes", entries, bytes)
	}
	m.forget(nthDigest(2))
	m.forget(nthDigest(1))
	m.forget(nthDigest(1))
	if entries, bytes := count(m); entries != 0 || bytes != 0 || m.get(nthDigest(1)) != nil {
		t.Errorf("%d entries, %d bytes are left", entries, bytes)
	}
}

func TestMemoryIsAsLargeAsTold(t *testing.T) {
	for _, times := range []int{1, 4} {
		m := newMemory(int64(times) * 64 * bytesForEach * memoryShards)
		for n := range 1000 {
			m.put(nthDigest(n), &remembered{})
		}
		if entries, _ := count(m); entries != times*64 {
			t.Errorf("%d entries, expected %d", entries, times*64)
		}
	}
}
