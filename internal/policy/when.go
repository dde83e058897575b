package policy

import (
	"errors"
	"fmt"
	"regexp/syntax"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"

	"github.com/credbroker/credbroker/internal/attest"
)

// Conditions of roles are CEL expressions over `identity`, with CEL's comparisons, logic, indexing, size, string
// functions and the macros has, all, exists and exists_one. All else is left out: nothing in the language tells the
// time, converts types or builds new lists.

const (
	maxWhenBytes = 4096
	// costLimit bounds an evaluation, in CEL's cost units (about one per step and per ten bytes compared): at load by
	// an estimate for a large identity, then by count at each evaluation.
	costLimit = 1_000_000
	// A large identity, for the estimate. A loop over a list of this length fits the limit, a loop in a loop doesn't.
	largeList, largeString = 1000, 256
)

func whenFunctions() []string {
	return []string{
		operators.LogicalAnd, operators.LogicalOr, operators.LogicalNot, operators.Conditional, operators.NotStrictlyFalse,
		operators.Equals, operators.NotEquals, operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals,
		operators.Add, operators.Index, operators.In,
		overloads.Size, overloads.StartsWith, overloads.EndsWith, overloads.Contains, overloads.Matches,
	}
}

// whenEnv compiles conditions.
type whenEnv struct{ env *cel.Env }

func newWhenEnv() (whenEnv, error) {
	provider, err := newTypeProvider()
	if err != nil {
		return whenEnv{}, err
	}
	subset := env.NewLibrarySubset().
		AddIncludedMacros(operators.Has, operators.All, operators.Exists, operators.ExistsOne)
	for _, name := range whenFunctions() {
		subset.AddIncludedFunctions(&env.Function{Name: name})
	}
	e, err := cel.NewCustomEnv(
		cel.CustomTypeProvider(provider),
		cel.CustomTypeAdapter(provider),
		cel.StdLib(cel.StdLibSubset(subset)),
		cel.Variable(identityVariable, cel.ObjectType(identityTypeName)),
		cel.EnableMacroCallTracking(), // so that Explain can print a part of an expression as it was written
		cel.ParserExpressionSizeLimit(maxWhenBytes),
		cel.ParserRecursionLimit(64),
	)
	return whenEnv{e}, err
}

// condition is a compiled `when`. It is safe for concurrent use.
type condition struct{ program cel.Program }

// compile checks and compiles an expression.
func (w whenEnv) compile(text string) (condition, error) {
	parsed, err := w.check(text)
	if err != nil {
		return condition{}, err
	}
	program, err := w.env.Program(parsed, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(costLimit))
	return condition{program}, err
}

func (w whenEnv) check(text string) (*cel.Ast, error) {
	if len(text) > maxWhenBytes {
		return nil, fmt.Errorf("%d bytes, expected at most %d", len(text), maxWhenBytes)
	}
	parsed, issues := w.env.Compile(text)
	if issues.Err() != nil {
		var lines []string
		for _, e := range issues.Errors() {
			lines = append(lines, fmt.Sprintf("line %d, column %d: %s", e.Location.Line(), e.Location.Column()+1, e.Message))
		}
		return nil, errors.New(strings.Join(lines, "; "))
	}
	if parsed.OutputType() != cel.BoolType {
		return nil, fmt.Errorf("it is of type %s, expected bool", parsed.OutputType())
	}
	if err := checkTree(parsed); err != nil {
		return nil, err
	}
	estimate, err := w.env.EstimateCost(parsed, identitySizes{})
	if err != nil {
		return nil, err
	}
	if estimate.Max > costLimit {
		return nil, fmt.Errorf("it could cost %d steps for an identity with lists of %d values; expected at most %d",
			estimate.Max, largeList, costLimit)
	}
	return parsed, nil
}

// checkTree checks what CEL's own type check lets pass: that nothing builds a value of type Identity, and that every
// pattern given to matches() is a literal that must match the whole of its subject. RE2 is content with a match anywhere
// in the text, which is hardly ever what the author of a rule meant.
func checkTree(parsed *cel.Ast) error {
	var faults []error
	ast.PreOrderVisit(parsed.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() == ast.StructKind {
			faults = append(faults, errors.New("an identity can't be made up"))
		}
		if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != overloads.Matches {
			return
		}
		args := e.AsCall().Args()
		pattern, ok := args[len(args)-1].AsLiteral().(types.String)
		if !ok {
			faults = append(faults, errors.New("the pattern of matches() must be a literal"))
		} else if !anchored(string(pattern)) {
			faults = append(faults, fmt.Errorf("the pattern %q of matches() must be one ^...$ as a whole, "+
				"with alternatives in parentheses", string(pattern)))
		}
	}))
	return errors.Join(faults...)
}

// anchored reports whether the pattern is one sequence from the start of the text to its end ("^a|b$" is not).
func anchored(pattern string) bool {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil || re.Op != syntax.OpConcat {
		return false
	}
	return re.Sub[0].Op == syntax.OpBeginText && re.Sub[len(re.Sub)-1].Op == syntax.OpEndText
}

// identitySizes tells the estimator how large an identity's parts may be.
type identitySizes struct{}

// EstimateSize implements cost.Estimator.
func (identitySizes) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
	if len(node.Path()) == 0 {
		return nil
	}
	text := cost.RangedSizeEstimate(0, largeString)
	var size cost.SizeEstimate
	switch node.Type().Kind() {
	case types.StringKind:
		size = text
	case types.ListKind:
		size = cost.ListSizeEstimate(cost.RangedSizeEstimate(0, largeList), text)
	case types.MapKind:
		size = cost.MapSizeEstimate(cost.RangedSizeEstimate(0, largeList), text, cost.RangedSizeEstimate(0, largeList))
	default:
		return nil
	}
	return &size
}

// EstimateCallCost implements cost.Estimator: CEL's own figures are right.
func (identitySizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// holds evaluates the condition. An error is a no, with its reason.
func (c condition) holds(id *attest.Identity) (bool, error) {
	out, _, err := c.program.Eval(activation{id})
	if err != nil {
		return false, err
	}
	return out == types.True, nil
}

// activation resolves the one variable there is.
type activation struct{ id *attest.Identity }

// ResolveName implements cel.Activation.
func (a activation) ResolveName(name string) (any, bool) { return a.id, name == identityVariable }

// Parent implements cel.Activation.
func (a activation) Parent() cel.Activation { return nil }

// parts splits an expression at its outermost &&s. The expression has been compiled before.
func (w whenEnv) parts(text string) ([]string, error) {
	parsed, err := w.check(text)
	if err != nil {
		return nil, err
	}
	var texts []string
	info := parsed.NativeRep().SourceInfo()
	var split func(ast.Expr) error
	split = func(e ast.Expr) error {
		if e.Kind() == ast.CallKind && e.AsCall().FunctionName() == operators.LogicalAnd {
			for _, operand := range e.AsCall().Args() {
				if err := split(operand); err != nil {
					return err
				}
			}
			return nil
		}
		part, err := cel.ExprToString(e, info)
		texts = append(texts, part)
		return err
	}
	return texts, split(parsed.NativeRep().Expr())
}
