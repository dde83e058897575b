package minio

import "context"

// AskNow makes a self-test whatever is known.
func AskNow(x *Exchanger) { x.selfTest.note(x.ask(context.Background())) }
