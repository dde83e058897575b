package prove_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/credbroker/credbroker"
	"github.com/credbroker/credbroker/prove"
)

// On an instance of Google Cloud; here a stand-in is its metadata server.
func ExampleGCP() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("asked for", r.URL.Query().Get("audience"))
		fmt.Fprint(w, "eyJ.of.an-instance")
	}))
	defer server.Close()
	os.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(server.URL, "http://"))
	defer os.Unsetenv("GCE_METADATA_HOST")

	proof, err := prove.GCP("https://broker.internal").Prove(context.Background())
	fmt.Println(proof, err)
	// Output:
	// asked for https://broker.internal
	// jwt proof [redacted] <nil>
}

// On a virtual machine, an App Service or a function of Azure, with a managed identity.
func ExampleAzure() {
	credential, err := azidentity.NewManagedIdentityCredential(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	client, err := credbroker.New("https://broker.internal:8443", prove.Azure(credential, "api://credbroker"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
}

// Where a SPIFFE implementation such as SPIRE runs; SPIFFE_ENDPOINT_SOCKET says where.
func ExampleSPIFFE() {
	client, err := credbroker.New("https://broker.internal:8443", prove.SPIFFE("", "https://broker.internal"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
}

// Where there are AWS credentials, in an account that has outbound identity federation turned on.
func ExampleAWSToken() {
	cfg, err := config.LoadDefaultConfig(context.Background(), config.WithRegion("eu-west-1"))
	if err != nil {
		fmt.Println(err)
		return
	}
	client, err := credbroker.New("https://broker.internal:8443", prove.AWSToken(sts.NewFromConfig(cfg), "https://broker.internal"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
}
