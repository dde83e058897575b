package brokertest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// IAM is a stand-in for the actions of AWS IAM that Vault's AWS engine makes users with and takes them away. Its users are what leases
// of the engine stand for.
type IAM struct {
	// URL is its endpoint.
	URL string

	mu    sync.Mutex
	users map[string]string // access key by user
	made  int
}

// NewIAM starts one without users.
func NewIAM(t testing.TB) *IAM {
	t.Helper()
	i := &IAM{users: map[string]string{}}
	s := httptest.NewServer(i)
	t.Cleanup(s.Close)
	i.URL = s.URL
	return i
}

// Counts are how many users there are, and how many there ever were.
func (i *IAM) Counts() (live, made int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.users), i.made
}

// ServeHTTP answers https://docs.aws.amazon.com/IAM/latest/APIReference/.
func (i *IAM) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil || r.Header.Get("Authorization") == "" {
		http.Error(w, "", http.StatusBadRequest)
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	action, user := r.PostForm.Get("Action"), r.PostForm.Get("UserName")
	key, known := i.users[user]
	result := ""
	switch action {
	case "CreateUser":
		i.made++
		i.users[user] = ""
		result = fmt.Sprintf("<User><UserName>%s</UserName><UserId>AIDA%d</UserId><Path>/</Path><Arn>arn:aws:iam::123456789012:user/%s</Arn></User>", user, i.made, user)
	case "CreateAccessKey":
		i.users[user] = fmt.Sprintf("AKIA%012d", i.made)
		result = fmt.Sprintf("<AccessKey><UserName>%s</UserName><AccessKeyId>%s</AccessKeyId><Status>Active</Status><SecretAccessKey>secret-%d</SecretAccessKey></AccessKey>", user, i.users[user], i.made)
	case "ListAccessKeys":
		result = fmt.Sprintf("<AccessKeyMetadata><member><UserName>%s</UserName><AccessKeyId>%s</AccessKeyId><Status>Active</Status></member></AccessKeyMetadata><IsTruncated>false</IsTruncated>", user, key)
	case "ListGroupsForUser":
		result = "<Groups/><IsTruncated>false</IsTruncated>"
	case "ListUserPolicies":
		result = "<PolicyNames/><IsTruncated>false</IsTruncated>"
	case "ListAttachedUserPolicies":
		result = "<AttachedPolicies/><IsTruncated>false</IsTruncated>"
	case "DeleteUser":
		delete(i.users, user)
	case "PutUserPolicy", "DeleteAccessKey":
	default:
		http.Error(w, "", http.StatusBadRequest)
		return
	}
	if !known && action != "CreateUser" {
		w.WriteHeader(http.StatusNotFound)
		_, _ = fmt.Fprint(w, `<ErrorResponse><Error><Type>Sender</Type><Code>NoSuchEntity</Code><Message>no such user</Message></Error><RequestId>1</RequestId></ErrorResponse>`)
		return
	}
	_, _ = fmt.Fprintf(w, `<%sResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><%sResult>%s</%sResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></%sResponse>`,
		action, action, result, action, action)
}
