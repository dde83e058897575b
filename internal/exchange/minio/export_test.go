package minio

import "context"

// AskNow makes a self-test whatever is known.
func AskNow(x *WebIdentity) { x.test(context.Background()) }
