package brokertest

import (
	"os"
	"os/exec"
	"path/filepath"
)

// Prepare runs deploy/vault/prepare.sh with steps, as an operator does; env are its variables, as NAME=VALUE.
func (v *Vault) Prepare(env []string, steps ...string) {
	v.t.Helper()
	cmd := exec.Command(filepath.Join(ModuleRoot(v.t), "deploy", "vault", "prepare.sh"), steps...)
	cmd.Env = append(append(os.Environ(), "VAULT_ADDR="+v.URL, "VAULT_TOKEN="+v.RootToken, "VAULT_CACERT="+v.CAFile, "VAULT_NAMESPACE="), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		v.t.Fatalf("prepare.sh: %v\n%s", err, out)
	}
}

// AppRoleFiles writes the role ID and a new secret ID of an AppRole to files of the test's.
func (v *Vault) AppRoleFiles(role string) (roleIDFile, secretIDFile string) {
	v.t.Helper()
	dir := v.t.TempDir()
	roleIDFile, secretIDFile = filepath.Join(dir, "role-id"), filepath.Join(dir, "secret-id")
	writeFile(v.t, roleIDFile, []byte(v.Read("auth/approle/role/" + role + "/role-id")["role_id"].(string)))
	writeFile(v.t, secretIDFile, []byte(v.Write("auth/approle/role/"+role+"/secret-id", nil)["secret_id"].(string)))
	return roleIDFile, secretIDFile
}
