package storedir_test

func clearUmask() {}
