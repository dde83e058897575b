package secret

import (
	"fmt"

	"github.com/go-json-experiment/json"
)

// maxAccessKeyFile bounds a file with an access key, in bytes.
const maxAccessKeyFile = 4 << 10

// ReadAccessKey reads a file that is a JSON object {"access_key_id": ..., "secret_access_key": ...} and nothing else, of at most 4 KiB. Both
// parts are there if there is no error.
func ReadAccessKey(path string) (id string, key Secret, err error) {
	data, err := ReadFile(path, maxAccessKeyFile)
	if err != nil {
		return "", Secret{}, err
	}
	var in struct {
		AccessKeyID     string `json:"access_key_id"`
		SecretAccessKey string `json:"secret_access_key"`
	}
	// The decoder's error may quote what it read.
	if json.Unmarshal([]byte(data.Reveal()), &in, json.RejectUnknownMembers(true)) != nil || in.AccessKeyID == "" || in.SecretAccessKey == "" {
		return "", Secret{}, fmt.Errorf(`%s isn't {"access_key_id": ..., "secret_access_key": ...}`, path)
	}
	return in.AccessKeyID, New(in.SecretAccessKey), nil
}
