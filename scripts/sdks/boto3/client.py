# An S3 client that knows nothing of the broker: it goes by its environment. It lists BUCKET, drops its credentials, lists again, and prints how
# many objects there were.
import os

import boto3

session = boto3.Session()
client = session.client("s3")
for _ in range(2):
    print("objects:", client.list_objects_v2(Bucket=os.environ["BUCKET"])["KeyCount"])
    session.get_credentials()._refresh_using  # refreshable ones alone have it
    session.get_credentials()._expiry_time = session.get_credentials()._time_fetcher()
