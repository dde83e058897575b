package jwtproof

import (
	"errors"
	"fmt"

	"github.com/credbroker/credbroker/internal/attest"
)

// kubernetesProfile is that of service account tokens of Kubernetes that the TokenRequest API made, as projected into pods: bound to
// an audience and a time, and to a pod if there is one. Tokens of the older kind, from secrets, lack these claims. The identity's
// subject is system:serviceaccount:NAMESPACE:NAME, its tenant the account's UID: an account that is deleted and made anew under
// its name is another.
var kubernetesProfile = profile{
	kind:       attest.KindKubernetes,
	attributes: []string{"namespace", "service_account", "service_account_uid", "pod", "pod_uid", "node"},
	identify: func(_ *Issuer, c *claims, id *attest.Identity) error {
		a, err := kubernetesClaims(c)
		if err != nil {
			return err
		}
		id.Tenant = a.uid
		for name, value := range map[string]string{
			"namespace": a.namespace, "service_account": a.name, "service_account_uid": a.uid, "pod": a.pod, "pod_uid": a.podUID, "node": a.node,
		} {
			if value != "" {
				id.Attrs[name] = []string{value}
			}
		}
		return nil
	},
}

// kubernetesAccount is what a token says of its service account. Pod and node are empty for one that isn't bound to any.
type kubernetesAccount struct{ namespace, name, uid, pod, podUID, node string }

func kubernetesClaims(c *claims) (kubernetesAccount, error) {
	members, ok := object(c.all["kubernetes.io"])
	if !ok {
		return kubernetesAccount{}, errors.New("kubernetes.io is missing or no object: expected a token of the TokenRequest API")
	}
	namespace, err := requireTexts(members, "namespace")
	if err != nil {
		return kubernetesAccount{}, fmt.Errorf("kubernetes.io: %w", err)
	}
	a := kubernetesAccount{namespace: namespace[0]}
	part := func(name string, required bool) (named [2]string, err error) {
		v := members[name]
		if v == nil && !required {
			return named, nil
		}
		inner, _ := object(v)
		texts, err := requireTexts(inner, "name", "uid")
		if err != nil {
			return named, fmt.Errorf("kubernetes.io: %s: %w", name, err)
		}
		return [2]string(texts), nil
	}
	account, err := part("serviceaccount", true)
	if err != nil {
		return kubernetesAccount{}, err
	}
	pod, err := part("pod", false)
	if err != nil {
		return kubernetesAccount{}, err
	}
	node, err := part("node", false)
	if err != nil {
		return kubernetesAccount{}, err
	}
	a.name, a.uid, a.pod, a.podUID, a.node = account[0], account[1], pod[0], pod[1], node[0]
	if c.subject != a.username() {
		return kubernetesAccount{}, errors.New("sub is not the service account that kubernetes.io names")
	}
	return a, nil
}

// username is how the API server calls the account.
func (a *kubernetesAccount) username() string {
	return "system:serviceaccount:" + a.namespace + ":" + a.name
}
