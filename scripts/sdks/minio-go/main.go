// Command minio-go is an S3 client that knows nothing of the broker: it goes by its environment. It lists BUCKET, drops its credentials, lists
// again, and prints how many objects there were. minio-go reads AWS's variables but those for endpoints, which it is told in code.
package main

import (
	"context"
	"fmt"
	"log"
	"net/url"
	"os"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

func main() {
	log.SetFlags(0)
	at, err := url.Parse(os.Getenv("AWS_ENDPOINT_URL_S3"))
	if err != nil {
		log.Fatal(err)
	}
	creds := credentials.NewIAM(os.Getenv("AWS_ENDPOINT_URL_STS"))
	client, err := minio.New(at.Host, &minio.Options{Creds: creds, Secure: at.Scheme == "https", Region: "us-east-1"})
	if err != nil {
		log.Fatal(err)
	}
	for range 2 {
		n := 0
		for object := range client.ListObjects(context.Background(), os.Getenv("BUCKET"), minio.ListObjectsOptions{Recursive: true}) {
			if object.Err != nil {
				log.Fatal(object.Err)
			}
			n++
		}
		fmt.Println("objects:", n)
		creds.Expire()
	}
}
