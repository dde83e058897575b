package policy

import (
	"errors"
	"fmt"
	"reflect"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/credbroker/credbroker/internal/attest"
)

// This file shows an identity to CEL as a typed object, so that a misspelt field is an error at load, and so that
// evaluation reads the fields in place: nothing is converted until an expression uses it.

const (
	identityVariable = "identity"
	identityTypeName = "Identity"
)

// identityField is one field of `identity`: its type, whether has() holds, and its value.
type identityField struct {
	celType *types.Type
	isSet   func(*attest.Identity) bool
	get     func(*attest.Identity) any
}

func stringField(get func(*attest.Identity) string) identityField {
	return identityField{
		celType: types.StringType,
		isSet:   func(id *attest.Identity) bool { return get(id) != "" },
		get:     func(id *attest.Identity) any { return get(id) },
	}
}

// identityFields are the fields by name. What the clock moves (when the proof ends) is not among them.
func identityFields() map[string]identityField {
	return map[string]identityField{
		"kind":    stringField(func(id *attest.Identity) string { return string(id.Kind) }),
		"issuer":  stringField(func(id *attest.Identity) string { return id.Issuer }),
		"tenant":  stringField(func(id *attest.Identity) string { return id.Tenant }),
		"subject": stringField(func(id *attest.Identity) string { return id.Subject }),
		"attrs": {
			celType: types.NewMapType(types.StringType, types.NewListType(types.StringType)),
			isSet:   func(id *attest.Identity) bool { return len(id.Attrs) > 0 },
			get:     func(id *attest.Identity) any { return attributes(id.Attrs) },
		},
		"actor": {
			celType: types.NewObjectType(identityTypeName),
			isSet:   func(id *attest.Identity) bool { return id.Actor != nil },
			get:     func(id *attest.Identity) any { return id.Actor },
		},
	}
}

// attributes is a map that CEL looks strings up in without building a value of its own for it.
type attributes map[string][]string

// FindStringKey is the look-up CEL's interpreter asks for.
func (a attributes) FindStringKey(key string) (any, bool) {
	values, ok := a[key]
	return values, ok
}

// typeProvider knows the type Identity and no other struct, so that expressions can build no messages either.
type typeProvider struct {
	*types.Registry
	fields map[string]*types.FieldType
}

func newTypeProvider() (*typeProvider, error) {
	registry, err := types.NewRegistry()
	if err != nil {
		return nil, err
	}
	p := &typeProvider{Registry: registry, fields: map[string]*types.FieldType{}}
	for name, f := range identityFields() {
		p.fields[name] = &types.FieldType{
			Type: f.celType,
			IsSet: func(v any) bool {
				id, ok := v.(*attest.Identity)
				return ok && id != nil && f.isSet(id)
			},
			GetFrom: func(v any) (any, error) {
				id, ok := v.(*attest.Identity)
				if !ok || id == nil {
					return nil, fmt.Errorf("there is no actor to take %q of", name)
				}
				return f.get(id), nil
			},
		}
	}
	return p, nil
}

// FindStructType implements types.Provider.
func (p *typeProvider) FindStructType(name string) (*types.Type, bool) {
	if name != identityTypeName {
		return nil, false
	}
	return types.NewTypeTypeWithParam(types.NewObjectType(identityTypeName)), true
}

// FindStructFieldType implements types.Provider.
func (p *typeProvider) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	f, ok := p.fields[field]
	return f, ok && name == identityTypeName
}

// NativeToValue implements types.Adapter.
func (p *typeProvider) NativeToValue(v any) ref.Val {
	switch v := v.(type) {
	case *attest.Identity:
		if v == nil {
			return types.NullValue
		}
		return identityValue{v}
	case attributes:
		return p.Registry.NativeToValue(map[string][]string(v))
	}
	return p.Registry.NativeToValue(v)
}

// identityValue is an identity where CEL needs a value of its own: compared with null, or the branch of a condition.
type identityValue struct{ id *attest.Identity }

var errNoConversion = errors.New("an identity can't be converted")

// ConvertToNative implements ref.Val.
func (identityValue) ConvertToNative(reflect.Type) (any, error) { return nil, errNoConversion }

// ConvertToType implements ref.Val.
func (identityValue) ConvertToType(ref.Type) ref.Val { return types.WrapErr(errNoConversion) }

// Equal implements ref.Val. Whole identities are never equal: what makes two the same is for the rule to say.
func (identityValue) Equal(ref.Val) ref.Val { return types.False }

// Type implements ref.Val.
func (identityValue) Type() ref.Type { return types.NewObjectType(identityTypeName) }

// Value implements ref.Val.
func (v identityValue) Value() any { return v.id }
