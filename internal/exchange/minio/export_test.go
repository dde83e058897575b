package minio

import "context"

// AskNow makes a self-test whatever is known.
func AskNow(x *Exchanger) { x.test(context.Background()) }
