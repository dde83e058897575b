// Command aws-sdk-go-v2 is an S3 client that knows nothing of the broker: it goes by its environment. It lists BUCKET, drops its credentials, lists
// again, and prints how many objects there were.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

func main() {
	log.SetFlags(0)
	ctx := context.Background()
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		log.Fatal(err)
	}
	client := s3.NewFromConfig(cfg)
	for range 2 {
		got, err := client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: aws.String(os.Getenv("BUCKET"))})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("objects:", len(got.Contents))
		cfg.Credentials.(*aws.CredentialsCache).Invalidate()
	}
}
