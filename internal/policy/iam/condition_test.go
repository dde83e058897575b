package iam_test

import (
	"testing"

	"github.com/credbroker/credbroker/internal/policy/iam"
)

func TestConditionsAreMetOrNotOrUnknown(t *testing.T) {
	values := iam.Values{Known: []string{"s3:prefix", "s3:max-keys", "s3:x-amz-acl"}, Of: map[string]string{"s3:prefix": "home/a/", "s3:max-keys": "5", "s3:delimiter": "/"}}
	for condition, want := range map[string]iam.Truth{
		`{"StringEquals":{"s3:prefix":"home/a/"}}`:                                          iam.Met,
		`{"StringEquals":{"s3:prefix":["x","home/a/"]}}`:                                    iam.Met,
		`{"StringEquals":{"s3:delimiter":"/"}}`:                                             iam.Met, // a value is known, whatever else is
		`{"StringEquals":{"s3:prefix":"home/A/"}}`:                                          iam.NotMet,
		`{"StringEquals":{"s3:prefix":"home/*"}}`:                                           iam.NotMet,
		`{"StringEqualsIgnoreCase":{"s3:prefix":"HOME/A/"}}`:                                iam.Met,
		`{"StringNotEqualsIgnoreCase":{"s3:prefix":"HOME/A/"}}`:                             iam.NotMet,
		`{"StringLike":{"s3:prefix":"home/*"}}`:                                             iam.Met,
		`{"StringLike":{"s3:prefix":"other/*"}}`:                                            iam.NotMet,
		`{"StringNotLike":{"s3:prefix":"home/*"}}`:                                          iam.NotMet,
		`{"StringNotLike":{"s3:prefix":["x/*","y/*"]}}`:                                     iam.Met,
		`{"StringNotEquals":{"s3:prefix":"x"}}`:                                             iam.Met,
		`{"StringEquals":{"s3:x-amz-acl":"private"}}`:                                       iam.NotMet, // it isn't there
		`{"StringNotEquals":{"s3:x-amz-acl":"private"}}`:                                    iam.Met,
		`{"StringLike":{"s3:x-amz-acl":"*"}}`:                                               iam.NotMet,
		`{"Null":{"s3:x-amz-acl":"true"}}`:                                                  iam.Met,
		`{"Null":{"s3:prefix":"true"}}`:                                                     iam.NotMet,
		`{"Null":{"s3:prefix":"false"}}`:                                                    iam.Met,
		`{"Null":{"aws:username":"true"}}`:                                                  iam.Unknown,
		`{"NumericLessThanEquals":{"s3:max-keys":"5"}}`:                                     iam.Met,
		`{"NumericLessThan":{"s3:max-keys":"5"}}`:                                           iam.NotMet,
		`{"NumericGreaterThan":{"s3:max-keys":"5"}}`:                                        iam.NotMet,
		`{"NumericGreaterThanEquals":{"s3:max-keys":"5"}}`:                                  iam.Met,
		`{"NumericEquals":{"s3:max-keys":"05"}}`:                                            iam.Met,
		`{"NumericEquals":{"s3:prefix":"5"}}`:                                               iam.NotMet,
		`{"NumericNotEquals":{"s3:max-keys":"5"}}`:                                          iam.Unknown,
		`{"Bool":{"aws:SecureTransport":"true"}}`:                                           iam.Unknown,
		`{"StringEquals":{"S3:Prefix":"home/a/"}}`:                                          iam.Unknown,
		`{"StringEqualsIfExists":{"s3:prefix":"home/a/"}}`:                                  iam.Unknown,
		`{"ForAnyValue:StringEquals":{"s3:prefix":"home/a/"}}`:                              iam.Unknown,
		`{"StringNot":{"s3:prefix":"x"}}`:                                                   iam.Unknown,
		`{"StringNotNotEquals":{"s3:prefix":"x"}}`:                                          iam.Unknown,
		`{"StringEquals":{"s3:prefix":"home/a/","aws:username":"a"}}`:                       iam.Unknown,
		`{"StringEquals":{"s3:prefix":"home/b/","aws:username":"a"}}`:                       iam.NotMet,
		`{"StringEquals":{"s3:prefix":"home/a/"},"NumericLessThan":{"s3:max-keys":"9"}}`:    iam.Met,
		`{"StringEquals":{"s3:prefix":"home/a/"},"NumericGreaterThan":{"s3:max-keys":"9"}}`: iam.NotMet,
	} {
		doc := parse(t, statement(`{"Effect":"Allow","Action":"s3:ListBucket","Resource":"arn:aws:s3:::b","Condition":`+condition+`}`))
		if got := values.Meets(doc.Statements[0].Condition); got != want {
			t.Errorf("%s: %d, want %d", condition, got, want)
		}
	}
	withVariable, err := iam.ParseTemplate(statement(`{"Effect":"Allow","Action":"s3:ListBucket","Resource":"arn:aws:s3:::b","Condition":{"StringNotEquals":{"s3:prefix":"${aws:username}"}}}`))
	if err != nil || values.Meets(withVariable.Statements[0].Condition) != iam.Unknown || !withVariable.HasVariables() {
		t.Errorf("a variable: %+v, %v", withVariable, err)
	}
	if doc := parse(t, statement(theRole)); doc.HasVariables() {
		t.Error("variables where there are none")
	}
}

// Of what isn't known, an Allow doesn't count and a Deny does.
func TestUnknownConditionsDeny(t *testing.T) {
	allow := `{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/*"`
	unknown := `,"Condition":{"Bool":{"aws:SecureTransport":"true"}}}`
	for text, want := range map[string]iam.Decision{
		allow + "}":     iam.Allowed,
		allow + unknown: iam.ImplicitDeny,
		allow + `},{"Effect":"Deny","Action":"s3:*","Resource":"arn:aws:s3:::*"` + unknown: iam.ExplicitDeny,
	} {
		if got := parse(t, statement(text)).Evaluate("s3:GetObject", "arn:aws:s3:::b/k", iam.Values{}.Meets); got != want {
			t.Errorf("%s: %d, want %d", text, got, want)
		}
	}
}
