package trustpolicy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Ceiling is the operator's last word over every policy.
type Ceiling struct {
	// OrganizationOnly makes policies count only from an organization's policy
	// repository.
	OrganizationOnly bool
	// Permissions holds the highest level of each permission that any policy may
	// grant. One that it does not name, nobody may. nil: no ceiling.
	Permissions map[string]string
}

// Check returns an error that names each permission over the ceiling, or that says
// that policies of this kind do not count. The text is for the operator.
func (c Ceiling) Check(kind Kind, p *TrustPolicy) error {
	if c.OrganizationOnly && kind != Organization {
		return fmt.Errorf("ceiling.policies is organization: policies in single repositories do not count here")
	}
	if c.Permissions == nil {
		return nil
	}
	var over []string
	for _, name := range slices.Sorted(maps.Keys(p.permissions)) {
		want := p.permissions[name]
		switch highest, named := c.Permissions[name]; {
		case !named:
			over = append(over, fmt.Sprintf("%s: %s, which the ceiling does not name", name, want))
		case !covers(highest, want):
			over = append(over, fmt.Sprintf("%s: %s, where the ceiling is %s", name, want, highest))
		}
	}
	if len(over) > 0 {
		return fmt.Errorf("the policy grants more than ceiling.permissions: %s", strings.Join(over, "; "))
	}
	return nil
}
