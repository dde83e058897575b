package policy_test

import (
	"fmt"
	"testing"

	"github.com/credbroker/credbroker/internal/policy"
)

func manyRoles(n int) []policy.Role {
	roles := make([]policy.Role, n)
	for i := range roles {
		roles[i] = role(func(r *policy.Role) {
			r.Name = fmt.Sprintf("role-%d", i)
			r.When = fmt.Sprintf(`identity.tenant == "corp" && ("team-%d" in identity.attrs.groups || "staff" in identity.attrs.groups)`, i)
		})
	}
	return roles
}

func BenchmarkResolve(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("roles=%d", n), func(b *testing.B) {
			rules := compile(b, manyRoles(n)...)
			id, wanted := alice(), policy.Wanted{Role: "role-7", Now: now}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := rules.Resolve(id, wanted); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkResolveTemplate(b *testing.B) {
	rules := compile(b, role(func(r *policy.Role) { r.SessionPolicy = homeTemplate }))
	for name, policyText := range map[string]string{"plain": "", "narrowed": narrowHome} {
		b.Run(name, func(b *testing.B) {
			id, wanted := alice(), policy.Wanted{Role: "reports", Policy: policyText, Now: now}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := rules.Resolve(id, wanted); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAllowed(b *testing.B) {
	rules := compile(b, manyRoles(10_000)...)
	id := alice()
	b.ReportAllocs()
	for b.Loop() {
		rules.Allowed(id)
	}
}

func BenchmarkCompile(b *testing.B) {
	roles := manyRoles(1000)
	b.ReportAllocs()
	for b.Loop() {
		compile(b, roles...)
	}
}
