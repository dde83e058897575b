package brokertest

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Where StartKubernetes puts what a cluster has: the namespace of reviewers, and the node that all pods are on.
const (
	reviewerNamespace = "reviewers"
	kubernetesNode    = "node-1"
)

// Kubernetes is a real Kubernetes API server in a process of its own on loopback, its etcd included. Nothing else of a
// cluster runs: a pod is what was written of it, and no controller makes a token or a default account.
//
// The server remembers for 10 s that a token was good. Until that has passed, a token that was reviewed is good for the same
// audiences though its account or pod is gone.
type Kubernetes struct {
	// URL is where it serves.
	URL string
	// CAFile holds the root of its certificate.
	CAFile string
	// Issuer is who its tokens are from, and their audience where the server itself is meant. Nothing answers there.
	Issuer string
	// DiscoveryURL and JWKSURL describe its tokens, to whoever shows a token of any service account for the server.
	DiscoveryURL, JWKSURL string

	process
	program, dir string
	port         int
	admin        string
	key          *rsa.PrivateKey
	client       *http.Client
}

// StartKubernetes starts a server without namespaces but the system's. It stops with the test.
func StartKubernetes(t testing.TB) *Kubernetes {
	t.Helper()
	dir := t.TempDir()
	port := holdPort(t)
	k := &Kubernetes{
		URL: fmt.Sprintf("https://127.0.0.1:%d", port), CAFile: filepath.Join(dir, "tls.crt"), Issuer: "https://kubernetes.default.svc.cluster.local",
		process: process{t: t, name: "Kubernetes", LogFile: filepath.Join(dir, "log")}, program: Tool(t, "kube-apiserver"), dir: dir, port: port, admin: random(16),
	}
	k.DiscoveryURL, k.JWKSURL = k.URL+DiscoveryPath, k.URL+"/openid/v1/jwks"
	k.makeKeys()
	k.endsWithTest(func() {
		k.Kill()
		k.client.CloseIdleConnections()
	})
	k.Start()
	k.create("/api/v1/nodes", object{"apiVersion": "v1", "kind": "Node", "metadata": object{"name": kubernetesNode}})
	k.CreateNamespace(reviewerNamespace)
	return k
}

// makeKeys writes the certificate of the server, the key that signs its tokens, and the token of its administrator.
func (k *Kubernetes) makeKeys() {
	k.t.Helper()
	WriteCertificate(k.t, k.CAFile, k.file("tls.key"))
	root, err := os.ReadFile(k.CAFile)
	if err != nil {
		k.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	k.client = &http.Client{Transport: transport, Timeout: 10 * time.Second}

	if k.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil { // as kubeadm makes it
		k.t.Fatal(err)
	}
	writeFile(k.t, k.file("tokens.key"), pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k.key)}))
	writeFile(k.t, k.file("admin.csv"), []byte(k.admin+",admin,admin,system:masters\n"))
}

func (k *Kubernetes) file(name string) string { return filepath.Join(k.dir, name) }

// Start starts the process and waits until the server is ready. It may be called again after Kill: port and data stay.
func (k *Kubernetes) Start() {
	k.t.Helper()
	cmd := exec.Command(k.program,
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", k.port),
		"--tls-cert-file="+k.CAFile, "--tls-private-key-file="+k.file("tls.key"),
		"--service-account-issuer="+k.Issuer, "--service-account-key-file="+k.file("tokens.key"), "--service-account-signing-key-file="+k.file("tokens.key"),
		"--token-auth-file="+k.file("admin.csv"), "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24",
		"--endpoint-reconciler-type=none", // nobody calls it by its cluster IP
	)
	cmd.Dir = k.dir // where its etcd keeps data
	k.run(cmd)
	k.waitUntil("ready", 60*time.Second, func() error {
		status, body, err := k.Call("", http.MethodGet, "/readyz", nil)
		if err != nil {
			return err
		}
		if status != http.StatusOK {
			return fmt.Errorf("/readyz says %d: %s", status, body)
		}
		return nil
	})
}

// Call sends a request as the bearer of token, or as the administrator if that is empty, with body as JSON unless it is nil.
func (k *Kubernetes) Call(token, method, path string, body any) (status int, answer []byte, err error) {
	var in io.Reader
	if body != nil {
		in = bytes.NewReader(k.marshal(body))
	}
	req, err := http.NewRequest(method, k.URL+path, in)
	if err != nil {
		return 0, nil, err
	}
	if token == "" {
		token = k.admin
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := k.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	return resp.StatusCode, answer, err
}

// object is a JSON object.
type object map[string]any

// kubernetesObject is what matters of an object that the server answers with.
type kubernetesObject struct {
	Metadata struct {
		UID string `json:"uid"`
	} `json:"metadata"`
	Spec struct {
		ServiceAccountName string `json:"serviceAccountName"` // a pod's
	} `json:"spec"`
	Status struct {
		Token         string `json:"token"`         // a TokenRequest's
		Authenticated bool   `json:"authenticated"` // a TokenReview's
	} `json:"status"`
}

// do is Call by the administrator. It fails the test unless the answer is a success.
func (k *Kubernetes) do(method, path string, body any) kubernetesObject {
	k.t.Helper()
	status, answer, err := k.Call("", method, path, body)
	if err != nil {
		k.t.Fatal(err)
	}
	if status/100 != 2 {
		k.t.Fatalf("Kubernetes says %d to %s %s: %s", status, method, path, answer)
	}
	var o kubernetesObject
	if err := json.Unmarshal(answer, &o); err != nil {
		k.t.Fatalf("Kubernetes answers %s %s: %v\n%s", method, path, err, answer)
	}
	return o
}

func (k *Kubernetes) create(path string, body object) kubernetesObject {
	k.t.Helper()
	return k.do(http.MethodPost, path, body)
}

// CreateNamespace makes a namespace.
func (k *Kubernetes) CreateNamespace(name string) {
	k.t.Helper()
	k.create("/api/v1/namespaces", object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": name}})
}

// CreateServiceAccount makes a service account and returns its UID.
func (k *Kubernetes) CreateServiceAccount(namespace, name string) string {
	k.t.Helper()
	return k.create(inNamespace(namespace, "serviceaccounts"), object{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": object{"name": name}}).Metadata.UID
}

// DeleteServiceAccount deletes an account and returns when the server has noticed, which takes it a moment.
func (k *Kubernetes) DeleteServiceAccount(namespace, name string) {
	k.t.Helper()
	probe := k.Token(namespace, name, []string{"probe"}, time.Hour, "")
	k.do(http.MethodDelete, inNamespace(namespace, "serviceaccounts", name), nil)
	k.waitRefused(probe)
}

// CreatePod makes a pod on the cluster's one node and returns its UID.
func (k *Kubernetes) CreatePod(namespace, name, serviceAccount string) string {
	k.t.Helper()
	return k.create(inNamespace(namespace, "pods"), object{
		"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": name},
		"spec": object{"serviceAccountName": serviceAccount, "nodeName": kubernetesNode, "containers": []object{{"name": "main", "image": "none"}}},
	}).Metadata.UID
}

// DeletePod deletes a pod and returns when the server has noticed, which takes it a moment.
func (k *Kubernetes) DeletePod(namespace, name string) {
	k.t.Helper()
	pod := k.do(http.MethodGet, inNamespace(namespace, "pods", name), nil)
	probe := k.Token(namespace, pod.Spec.ServiceAccountName, []string{"probe"}, time.Hour, name)
	// Without grace: no kubelet would say that it has ended.
	k.do(http.MethodDelete, inNamespace(namespace, "pods", name)+"?gracePeriodSeconds=0", nil)
	k.waitRefused(probe)
}

// waitRefused waits until a token for the audience "probe" isn't good any more.
func (k *Kubernetes) waitRefused(probe string) {
	k.t.Helper()
	Eventually(k.t, 10*time.Second, "token refused", func() error {
		// Another audience each time, or the server would answer what it remembers.
		review := k.create("/apis/authentication.k8s.io/v1/tokenreviews", object{
			"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": object{"token": probe, "audiences": []string{"probe", random(8)}},
		})
		if review.Status.Authenticated {
			return fmt.Errorf("it is still good")
		}
		return nil
	})
}

// Token is a token of the account by TokenRequest, as a kubelet asks for it: for the audiences, or for the server itself if
// there are none; for a lifetime of 10 minutes at least; and bound to a pod of the account, unless boundPod is empty.
func (k *Kubernetes) Token(namespace, serviceAccount string, audiences []string, lifetime time.Duration, boundPod string) string {
	k.t.Helper()
	spec := object{"audiences": audiences, "expirationSeconds": int(lifetime.Seconds())}
	if boundPod != "" {
		spec["boundObjectRef"] = object{"apiVersion": "v1", "kind": "Pod", "name": boundPod}
	}
	return k.create(inNamespace(namespace, "serviceaccounts", serviceAccount, "token"), object{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec,
	}).Status.Token
}

// LegacyToken is a token of the kind that secrets hold: it never ends, has no audience, and its issuer is of its own. The
// server takes it for itself as long as the secret is there, which LegacyToken makes as the token controller would.
func (k *Kubernetes) LegacyToken(namespace, serviceAccount string) string {
	k.t.Helper()
	uid := k.do(http.MethodGet, inNamespace(namespace, "serviceaccounts", serviceAccount), nil).Metadata.UID
	secret := serviceAccount + "-token-" + random(3)
	token := k.Sign(object{
		"iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:" + namespace + ":" + serviceAccount,
		"kubernetes.io/serviceaccount/namespace": namespace, "kubernetes.io/serviceaccount/secret.name": secret,
		"kubernetes.io/serviceaccount/service-account.name": serviceAccount, "kubernetes.io/serviceaccount/service-account.uid": uid,
	})
	k.create(inNamespace(namespace, "secrets"), object{
		"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token", "stringData": object{"token": token},
		"metadata": object{"name": secret, "annotations": object{
			"kubernetes.io/service-account.name": serviceAccount, "kubernetes.io/service-account.uid": uid,
		}},
	})
	return token
}

// Sign signs claims as the server signs tokens: what TokenRequest wouldn't give out, such as a token that has expired.
func (k *Kubernetes) Sign(claims map[string]any) string {
	public, err := x509.MarshalPKIXPublicKey(k.key.Public())
	if err != nil {
		panic(err) // an RSA key always has such a form
	}
	kid := sha256.Sum256(public)
	input := base64url(k.marshal(object{"alg": "RS256", "kid": base64url(kid[:])})) + "." + base64url(k.marshal(claims))
	digest := sha256.Sum256([]byte(input))
	signature, err := rsa.SignPKCS1v15(rand.Reader, k.key, crypto.SHA256, digest[:])
	if err != nil {
		panic(err) // 2048 bits are enough for SHA-256
	}
	return input + "." + base64url(signature)
}

// ReviewerTokenFile makes a service account that may ask for TokenReviews, as the broker's own has to be, and returns a file
// with a token of it for the server. Each call makes another one.
func (k *Kubernetes) ReviewerTokenFile() string {
	k.t.Helper()
	name := "reviewer-" + random(4)
	k.CreateServiceAccount(reviewerNamespace, name)
	k.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", object{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": object{"name": name},
		"roleRef":  object{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:auth-delegator"},
		"subjects": []object{{"kind": "ServiceAccount", "namespace": reviewerNamespace, "name": name}},
	})
	token := k.Token(reviewerNamespace, name, nil, time.Hour, "")
	file := k.file(name + ".token")
	writeFile(k.t, file, []byte(token))
	// RBAC too takes a moment to notice.
	Eventually(k.t, 10*time.Second, "reviewer may review", func() error {
		status, answer, err := k.Call(token, http.MethodPost, "/apis/authentication.k8s.io/v1/tokenreviews", object{
			"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": object{"token": "x"},
		})
		if err == nil && status != http.StatusCreated {
			err = fmt.Errorf("it says %d: %s", status, answer)
		}
		return err
	})
	return file
}

// inNamespace is the path of things in a namespace.
func inNamespace(namespace string, parts ...string) string {
	return "/api/v1/namespaces/" + namespace + "/" + strings.Join(parts, "/")
}

func (k *Kubernetes) marshal(v any) []byte {
	k.t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		k.t.Fatal(err)
	}
	return data
}
