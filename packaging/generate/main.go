// Command generate writes what the packages hold beside the programs: the manual pages of the file formats, the changelog, the
// licences of everything that is linked, and the software bill of materials. packaging/packages calls it; nothing of it is shipped.
package main

import (
	"fmt"
	"os"
)

const usage = `usage: generate pages VERSION DIRECTORY
       generate changelog VERSION
       generate copyright debian|plain|expression PROGRAM...
       generate sbom PACKAGE VERSION ARCHITECTURE FILE PROGRAM...
       generate check-sbom FILE ROOT`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 3 && args[0] == "pages":
		return writePages(args[1], args[2])
	case len(args) == 2 && args[0] == "changelog":
		return writeChangelog(os.Stdout, args[1])
	case len(args) > 2 && args[0] == "copyright" && (args[1] == "debian" || args[1] == "plain"):
		return writeCopyright(os.Stdout, args[1] == "debian", args[2:])
	case len(args) > 2 && args[0] == "copyright" && args[1] == "expression":
		return writeExpression(os.Stdout, args[2:])
	case len(args) > 5 && args[0] == "sbom":
		return writeSBOM(sbomPackage{name: args[1], version: args[2], architecture: args[3]}, args[4], args[5:])
	case len(args) == 3 && args[0] == "check-sbom":
		return checkSBOM(args[1], args[2])
	}
	return fmt.Errorf("wrong usage\n%s", usage)
}
