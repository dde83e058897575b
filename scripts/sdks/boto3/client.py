# An S3 client that knows nothing of the broker: it goes by its environment. It lists BUCKET, has its credentials end at once, lists again, and
# prints how many objects there were.
import datetime
import os

import boto3

session = boto3.Session()
client = session.client("s3")
for _ in range(2):
    print("objects:", client.list_objects_v2(Bucket=os.environ["BUCKET"])["KeyCount"])
    # botocore has no call for it.
    session.get_credentials()._expiry_time = datetime.datetime.now(datetime.timezone.utc)
