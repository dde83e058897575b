package audit

import (
	"io"
	"os"
)

// openFile opens the log to append to. It also says whether the file ends inside a line, as it does after a full disk or
// the death of whoever wrote it before.
func openFile(path string) (out io.WriteCloser, torn bool, err error) {
	if path == "-" {
		return keepOpen{os.Stdout}, false, nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, false, err
	}
	return f, endsInsideLine(f, path), nil
}

func endsInsideLine(f *os.File, path string) bool {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return false
	}
	r, err := os.Open(path)
	if err != nil {
		return true // unknown: an empty line does no harm
	}
	defer r.Close() //nolint:errcheck // read-only
	var last [1]byte
	_, err = r.ReadAt(last[:], info.Size()-1)
	return err != nil || last[0] != '\n'
}

// keepOpen is for standard output, which isn't ours to close.
type keepOpen struct{ io.Writer }

func (keepOpen) Close() error { return nil }
