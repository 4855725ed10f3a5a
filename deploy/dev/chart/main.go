// What deploy/dev/chart.sh needs besides helm and kubeconform.
//
//	schemas OUT SWAGGER [CRD]...   JSON schemas for kubeconform, one a kind, from the OpenAPI of Kubernetes and from CRDs
//	values FILE                    the table of a chart's README, from the comments in its values.yaml
//	arguments                      those of each container in the manifests on stdin, one container a line
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
	yamlv3 "sigs.k8s.io/yaml/goyaml.v3"
)

func main() {
	log.SetFlags(0)
	var err error
	switch arguments := os.Args[1:]; {
	case len(arguments) >= 3 && arguments[0] == "schemas":
		err = schemas(arguments[1], arguments[2], arguments[3:])
	case len(arguments) == 2 && arguments[0] == "values":
		err = values(arguments[1])
	case len(arguments) == 1 && arguments[0] == "arguments":
		err = ofContainers()
	default:
		log.Fatal("chart schemas OUT SWAGGER [CRD]... | chart values FILE | chart arguments")
	}
	if err != nil {
		log.Fatal(err)
	}
}

type schema = map[string]any

// One file for each kind of Kubernetes and each version of each CRD, in the layout that kubeconform looks for.
func schemas(out, swagger string, crds []string) error {
	var api struct {
		Definitions map[string]schema `json:"definitions"`
	}
	if err := read(swagger, &api); err != nil {
		return err
	}
	for name, definition := range api.Definitions {
		strict(definition)
		// Numbers, or texts such as `50%`: the OpenAPI calls them texts.
		if strings.HasSuffix(name, ".IntOrString") || strings.HasSuffix(name, ".Quantity") {
			api.Definitions[name] = schema{"type": []string{"string", "number"}}
		}
	}
	for name, definition := range api.Definitions {
		kinds, _ := definition["x-kubernetes-group-version-kind"].([]any)
		if len(kinds) != 1 {
			continue
		}
		kind, _ := kinds[0].(schema)
		whole := schema{"$ref": "#/definitions/" + name, "definitions": used(api.Definitions, name)}
		if err := write(out, kind["group"].(string), kind["kind"].(string), kind["version"].(string), whole); err != nil {
			return err
		}
	}
	for _, path := range crds {
		if err := ofCRD(out, path); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func ofCRD(out, path string) error {
	var crd struct {
		Spec struct {
			Group    string
			Names    struct{ Kind string }
			Versions []struct {
				Name   string
				Schema struct{ OpenAPIV3Schema schema }
			}
		}
	}
	if err := read(path, &crd); err != nil {
		return err
	}
	for _, version := range crd.Spec.Versions {
		whole := version.Schema.OpenAPIV3Schema
		strict(whole)
		whole["properties"].(schema)["metadata"] = schema{"type": "object"}
		if err := write(out, crd.Spec.Group, crd.Spec.Names.Kind, version.Name, whole); err != nil {
			return err
		}
	}
	return nil
}

// The definitions that one needs, itself among them.
func used(all map[string]schema, name string) map[string]schema {
	found := map[string]schema{}
	var follow func(any)
	follow = func(value any) {
		switch value := value.(type) {
		case schema:
			if reference, ok := value["$ref"].(string); ok {
				name := strings.TrimPrefix(reference, "#/definitions/")
				if _, known := found[name]; !known {
					found[name] = all[name]
					follow(all[name])
				}
			}
			for _, each := range value {
				follow(each)
			}
		case []any:
			for _, each := range value {
				follow(each)
			}
		}
	}
	follow(schema{"$ref": "#/definitions/" + name})
	return found
}

// A field that nobody knows is an error, which the OpenAPI does not say of itself.
func strict(value any) {
	switch value := value.(type) {
	case schema:
		_, has := value["properties"].(schema)
		if _, open := value["additionalProperties"]; has && !open && value["x-kubernetes-preserve-unknown-fields"] != true {
			value["additionalProperties"] = false
		}
		if value["x-kubernetes-int-or-string"] == true {
			delete(value, "type")
		}
		// `int32` and the like are no formats of JSON schema.
		if _, kind := value["format"].(string); kind {
			delete(value, "format")
		}
		for _, each := range value {
			strict(each)
		}
	case []any:
		for _, each := range value {
			strict(each)
		}
	}
}

func read(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return yaml.Unmarshal(text, into)
}

func write(out, group, kind, version string, whole schema) error {
	text, err := json.Marshal(whole)
	if err != nil {
		return err
	}
	if group == "" {
		group = version // as kubeconform calls it
	}
	name := fmt.Sprintf("%s-%s-%s.json", kind, group, version)
	return os.WriteFile(filepath.Join(out, strings.ToLower(name)), text, 0o644)
}

// Every value that has no values below it, with its default and the comment `# --` above it.
func values(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var document yamlv3.Node
	if err := yamlv3.Unmarshal(text, &document); err != nil {
		return err
	}
	fmt.Println("| value | default | |\n| --- | --- | --- |")
	return rows("", document.Content[0])
}

func rows(prefix string, node *yamlv3.Node) error {
	for i := 0; i < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		name, about := prefix+key.Value, ""
		if _, comment, found := strings.Cut(key.HeadComment, "# -- "); found {
			about = strings.ReplaceAll(comment, "\n# ", " ")
		}
		if value.Kind == yamlv3.MappingNode && len(value.Content) > 0 && about == "" {
			if err := rows(name+".", value); err != nil {
				return err
			}
			continue
		}
		var plain any
		if err := value.Decode(&plain); err != nil {
			return err
		}
		shown, err := json.Marshal(plain)
		if err != nil {
			return err
		}
		fmt.Printf("| `%s` | `%s` | %s |\n", name, shown, strings.ReplaceAll(about, "|", "\\|"))
	}
	return nil
}

func ofContainers() error {
	for documents := yamlv3.NewDecoder(os.Stdin); ; {
		var document any
		if err := documents.Decode(&document); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		printArguments(document)
	}
}

func printArguments(value any) {
	switch value := value.(type) {
	case schema:
		if arguments, ok := value["args"].([]any); ok {
			fmt.Println(strings.Trim(fmt.Sprint(arguments), "[]"))
		}
		for _, each := range value {
			printArguments(each)
		}
	case []any:
		for _, each := range value {
			printArguments(each)
		}
	}
}
