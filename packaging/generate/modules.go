package main

import (
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/mod/module"
)

// linkedModule is a module of which something is linked into a program, with its licence. The Go toolchain counts as the
// module "stdlib".
type linkedModule struct {
	path, version string
	license       string // SPDX identifier, or several with AND
	texts         []string
	notice        string
	copyrights    []string
}

func (m linkedModule) purl() string { return "pkg:golang/" + m.path + "@" + m.version }

// readProgram returns what the Go linker wrote into a program of what it was made from. A module that another one replaces
// stands under the name of that.
func readProgram(path string) (*debug.BuildInfo, error) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading what %s was built from: %w", path, err)
	}
	for i, dep := range info.Deps {
		if dep.Replace != nil {
			info.Deps[i] = dep.Replace
		}
	}
	return info, nil
}

// linkedModules returns the modules of several programs, each once, sorted, and the Go toolchain's first.
func linkedModules(programs []string) ([]linkedModule, error) {
	versions := map[string]string{}
	for _, program := range programs {
		info, err := readProgram(program)
		if err != nil {
			return nil, err
		}
		versions["stdlib"] = strings.TrimPrefix(info.GoVersion, "go")
		for _, dep := range info.Deps {
			versions[dep.Path] = dep.Version
		}
	}
	roots, err := goEnv("GOROOT", "GOMODCACHE")
	if err != nil {
		return nil, err
	}
	var modules []linkedModule
	for path, version := range versions {
		dir := roots[0]
		if path != "stdlib" {
			escapedPath, err := module.EscapePath(path)
			if err != nil {
				return nil, err
			}
			escapedVersion, err := module.EscapeVersion(version)
			if err != nil {
				return nil, err
			}
			dir = filepath.Join(roots[1], escapedPath+"@"+escapedVersion)
		}
		m := linkedModule{path: path, version: version}
		if err := m.readLicense(dir); err != nil {
			return nil, fmt.Errorf("%s %s: %w", path, version, err)
		}
		modules = append(modules, m)
	}
	slices.SortFunc(modules, func(a, b linkedModule) int {
		if (a.path == "stdlib") != (b.path == "stdlib") {
			return map[bool]int{true: -1, false: 1}[a.path == "stdlib"]
		}
		return strings.Compare(a.path, b.path)
	})
	return modules, nil
}

func goEnv(names ...string) ([]string, error) {
	out, err := exec.Command("go", append([]string{"env"}, names...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n"), nil
}

// readLicense reads the licences and notices at the top of a module. A module without one, or with one that is not known
// here, is an error: somebody has to look at it.
func (m *linkedModule) readLicense(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("reading the module's licence: %w", err)
	}
	var names []string
	for _, entry := range entries {
		upper := strings.ToUpper(entry.Name())
		isLicense := strings.HasPrefix(upper, "LICENSE") || strings.HasPrefix(upper, "LICENCE") || strings.HasPrefix(upper, "COPYING")
		isNotice := strings.HasPrefix(upper, "NOTICE")
		if entry.IsDir() || !isLicense && !isNotice {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			return err
		}
		text := strings.TrimSpace(strings.ReplaceAll(string(content), "\r\n", "\n"))
		if isNotice {
			m.notice = text
			continue
		}
		found := identify(text)
		if len(found) == 0 {
			return fmt.Errorf("the licence in %s is none that packaging/generate knows", entry.Name())
		}
		names = append(names, found...)
		m.texts = append(m.texts, text)
		m.copyrights = append(m.copyrights, copyrights(text)...)
	}
	if names == nil {
		return fmt.Errorf("it has no licence file")
	}
	slices.Sort(names)
	m.license = strings.Join(slices.Compact(names), " AND ")
	m.copyrights = append(m.copyrights, copyrights(m.notice)...)
	return nil
}

// identify returns the SPDX identifiers of the licences in a text, going by words that only they have.
func identify(text string) []string {
	words := strings.Join(strings.Fields(text), " ")
	has := func(phrase string) bool { return strings.Contains(words, phrase) }
	var found []string
	if has("Apache License Version 2.0, January 2004") || has("Licensed under the Apache License, Version 2.0") {
		found = append(found, "Apache-2.0")
	}
	if has("Mozilla Public License") && has("ersion 2.0") {
		found = append(found, "MPL-2.0")
	}
	if has("Permission is hereby granted, free of charge, to any person obtaining a copy") {
		found = append(found, "MIT")
	}
	if has("Creative Commons Legal Code CC0 1.0 Universal") {
		found = append(found, "CC0-1.0")
	}
	if has("Permission to use, copy, modify, and/or distribute this software for any purpose") ||
		has("Permission to use, copy, modify, and distribute this software for any purpose") {
		found = append(found, "ISC")
	}
	if has("Redistribution and use in source and binary forms") {
		if has("Neither the name") || has("names of its contributors") || has("name of the copyright holder nor") {
			found = append(found, "BSD-3-Clause")
		} else {
			found = append(found, "BSD-2-Clause")
		}
	}
	return found
}

// copyrights returns the lines of a text that say whose it is, "2009 The Go Authors" for one.
func copyrights(text string) []string {
	var found []string
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		rest, ok := strings.CutPrefix(line, "Copyright ")
		if !ok || strings.HasPrefix(rest, "[") || strings.HasPrefix(rest, "{") {
			continue
		}
		rest = strings.TrimSpace(strings.TrimPrefix(strings.TrimPrefix(rest, "(c)"), "(C)"))
		if strings.ContainsAny(rest, "0123456789") || strings.Contains(rest, "uthors") || strings.HasPrefix(rest, "©") {
			found = append(found, strings.TrimSpace(strings.TrimPrefix(rest, "©")))
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}
