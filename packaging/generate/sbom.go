package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"

	"github.com/octo-sts/appliance/packaging/manual"
)

type sbomPackage struct{ name, version, architecture string }

// writeSBOM writes, as CycloneDX 1.6 in JSON, what a package's programs were made from: each program with its SHA-256 and the
// settings that it was built with, each module with its version and licence, and which program holds which modules. All of
// it is read from the programs themselves.
func writeSBOM(p sbomPackage, file string, programs []string) error {
	date, err := manual.SourceDate()
	if err != nil {
		return err
	}
	modules, err := linkedModules(programs)
	if err != nil {
		return err
	}
	bom := cdx.NewBOM()
	root := "pkg:generic/" + p.name + "@" + p.version + "?arch=" + p.architecture
	bom.Metadata = &cdx.Metadata{
		Timestamp: date.Format(time.RFC3339),
		Component: &cdx.Component{
			BOMRef: root, PackageURL: root, Type: cdx.ComponentTypeApplication, Name: p.name, Version: p.version,
			Licenses: &cdx.Licenses{{License: &cdx.License{ID: "Apache-2.0"}}},
		},
	}
	var components []cdx.Component
	dependencies := []cdx.Dependency{{Ref: root, Dependencies: &[]string{}}}
	for _, program := range programs {
		component, uses, err := programComponent(program, p.version)
		if err != nil {
			return err
		}
		components = append(components, component)
		*dependencies[0].Dependencies = append(*dependencies[0].Dependencies, component.BOMRef)
		dependencies = append(dependencies, cdx.Dependency{Ref: component.BOMRef, Dependencies: &uses})
	}
	for _, m := range modules {
		components = append(components, moduleComponent(m))
		dependencies = append(dependencies, cdx.Dependency{Ref: m.purl()})
	}
	bom.Components, bom.Dependencies = &components, &dependencies

	var content strings.Builder
	encode := func() error {
		content.Reset()
		return cdx.NewBOMEncoder(&content, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).EncodeVersion(bom, cdx.SpecVersion1_6)
	}
	if err := encode(); err != nil {
		return fmt.Errorf("writing the bill of materials: %w", err)
	}
	bom.SerialNumber = serialNumber(content.String()) // which may not be random, or no two builds were the same
	if err := encode(); err != nil {
		return fmt.Errorf("writing the bill of materials: %w", err)
	}
	return os.WriteFile(file, []byte(content.String()), 0o644)
}

// serialNumber is a UUID of version 8 (RFC 9562, section 5.8) that follows from the content.
func serialNumber(content string) string {
	sum := sha256.Sum256([]byte(content))
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

func programComponent(path, version string) (cdx.Component, []string, error) {
	info, err := readProgram(path)
	if err != nil {
		return cdx.Component{}, nil, err
	}
	sum, err := hashFile(path)
	if err != nil {
		return cdx.Component{}, nil, err
	}
	name := filepath.Base(path)
	uses := []string{linkedModule{path: "stdlib", version: strings.TrimPrefix(info.GoVersion, "go")}.purl()}
	for _, dep := range info.Deps {
		uses = append(uses, linkedModule{path: dep.Path, version: dep.Version}.purl())
	}
	slices.Sort(uses)
	return cdx.Component{
		BOMRef: "file:/usr/bin/" + name, Type: cdx.ComponentTypeFile, Name: "/usr/bin/" + name, Version: version,
		Hashes:     &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: sum}},
		Properties: buildProperties(info),
	}, uses, nil
}

// buildProperties are the settings that decide what the program is: cgo, the FIPS module, the architecture.
func buildProperties(info *debug.BuildInfo) *[]cdx.Property {
	properties := []cdx.Property{{Name: "go:version", Value: info.GoVersion}, {Name: "go:package", Value: info.Path}}
	for _, setting := range info.Settings {
		if strings.HasPrefix(setting.Key, "GO") || strings.HasPrefix(setting.Key, "CGO_ENABLED") || setting.Key == "-trimpath" {
			properties = append(properties, cdx.Property{Name: "go:build:" + setting.Key, Value: setting.Value})
		}
	}
	return &properties
}

func moduleComponent(m linkedModule) cdx.Component {
	c := cdx.Component{BOMRef: m.purl(), PackageURL: m.purl(), Type: cdx.ComponentTypeLibrary, Name: m.path, Version: m.version}
	if strings.Contains(m.license, " ") {
		c.Licenses = &cdx.Licenses{{Expression: m.license}}
	} else {
		c.Licenses = &cdx.Licenses{{License: &cdx.License{ID: m.license}}}
	}
	return c
}

func hashFile(path string) (string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:]), nil
}

// checkSBOM reads a bill of materials back and holds it against the programs under root, where a package was unpacked: each is
// named with its hash, and every module that is linked into it is listed.
func checkSBOM(file, root string) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(in, cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		return fmt.Errorf("reading %s: %w", file, err)
	}
	byRef := map[string]cdx.Component{}
	for _, c := range *bom.Components {
		if _, twice := byRef[c.BOMRef]; twice {
			return fmt.Errorf("%s: %s stands in it twice", file, c.BOMRef)
		}
		byRef[c.BOMRef] = c
	}
	programs, err := filepath.Glob(filepath.Join(root, "usr/bin/*"))
	if err != nil || len(programs) == 0 {
		return fmt.Errorf("there are no programs under %s", root)
	}
	for _, program := range programs {
		want, uses, err := programComponent(program, "")
		if err != nil {
			return err
		}
		got, ok := byRef[want.BOMRef]
		if !ok || got.Hashes == nil || (*got.Hashes)[0] != (*want.Hashes)[0] {
			return fmt.Errorf("%s: %s is not in it with the hash that it has", file, program)
		}
		for _, ref := range uses {
			if c, ok := byRef[ref]; !ok || c.Licenses == nil {
				return fmt.Errorf("%s: %s, which %s is linked with, is not in it with a licence", file, ref, program)
			}
		}
	}
	fmt.Printf("%s: %d programs, %d components\n", file, len(programs), len(byRef))
	return nil
}
