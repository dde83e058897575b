// An S3 client that knows nothing of the broker: it goes by its environment. It lists BUCKET, drops its credentials, lists again, and prints
// how many objects there were.
import { ListObjectsV2Command, S3Client } from "@aws-sdk/client-s3";

const client = new S3Client({ forcePathStyle: true });
for (let i = 0; i < 2; i++) {
  const got = await client.send(new ListObjectsV2Command({ Bucket: process.env.BUCKET }));
  console.log("objects:", got.KeyCount);
  await client.config.credentials({ forceRefresh: true });
}
