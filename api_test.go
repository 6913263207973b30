package bus_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"maps"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// publicPackages are the packages that programs import, by folder.
var publicPackages = []string{".", "codec", "codec/codectest", "event", "health", "switchover", "middleware", "bustest"}

// apiTypes are the packages whose types may appear in the API of the root, with
// the reason. Programs that use the API depend on them.
var apiTypes = map[string]string{
	natsGo:                          "Bus.Conn: what this library does not offer",
	natsGo + "/jetstream":           "Bus.JetStream, StreamConfig.Raw: likewise",
	natsServer:                      "WithServerOptions: likewise, in server.go",
	"github.com/hashicorp/go-hclog": "WithLogger: the logger of the projects we meet in practice",
	otelAPI + "/metric":             "WithMeterProvider",
	otelAPI + "/propagation":        "WithPropagator",
	otelAPI + "/trace":              "WithTracerProvider",
	ourModule + "/codec":            "WithCodec, WithCodecFor, As",
	ourModule + "/event":            "WithEvents",
	ourModule + "/health":           "Bus.Health, WithHealthThresholds",
	ourModule + "/switchover":       "Bus.SwitchTo",
	ourModule + "/stats":            "Bus.Stats, and errors that name a handler call",
}

// apiAliases are the exported names that stand for a type of an internal
// package: callers meet the type, and the package stays ours to move.
var apiAliases = map[string]string{}

// api is one public package as go doc shows it, and the imports of its files.
type api struct {
	fset    *token.FileSet
	doc     *doc.Package
	imports map[string]string // path by name in the files
}

func loadAPI(t *testing.T, dir string) api {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	a := api{fset: token.NewFileSet(), imports: make(map[string]string)}
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(a.fset, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(a.imports, importNames(f))
		files = append(files, f)
	}
	if a.doc, err = doc.NewFromFiles(a.fset, files, path.Join(ourModule, dir)); err != nil {
		t.Fatal(err)
	}
	return a
}

// importNames returns the paths that f imports by the name it uses them under.
func importNames(f *ast.File) map[string]string {
	names := make(map[string]string)
	for _, spec := range f.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser accepted it
		}
		name := majorVersion.ReplaceAllString(p, "")
		name = strings.TrimSuffix(strings.TrimPrefix(path.Base(name), "go-"), ".go")
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[name] = p
	}
	return names
}

var majorVersion = regexp.MustCompile(`/v[0-9]+$`)

// importsOf returns the paths that a file imports.
func importsOf(t *testing.T, dir, file string) map[string]bool {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, file), nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	paths := make(map[string]bool)
	for _, p := range importNames(f) {
		paths[p] = true
	}
	return paths
}

// TestAPIIsDocumented holds every exported name to a comment of its own.
func TestAPIIsDocumented(t *testing.T) {
	t.Parallel()
	for _, dir := range publicPackages {
		t.Run(dir, func(t *testing.T) {
			t.Parallel()
			a := loadAPI(t, dir)
			if a.doc.Doc == "" {
				t.Errorf("package %s has no package comment", a.doc.Name)
			}
			if len(a.doc.Types)+len(a.doc.Funcs)+len(a.doc.Consts)+len(a.doc.Vars) == 0 {
				t.Fatal("nothing is exported: does the folder exist?")
			}
			for name, comment := range a.exported() {
				if comment == "" {
					t.Errorf("%s has no comment", name)
				}
			}
		})
	}
}

// exported returns the comment of every exported name, methods as Type.Method.
// A constant or variable may share the comment of its group.
func (a api) exported() map[string]string {
	all := make(map[string]string)
	funcs := slices.Clone(a.doc.Funcs)
	values := slices.Concat(a.doc.Consts, a.doc.Vars)
	for _, typ := range a.doc.Types {
		all[typ.Name] = typ.Doc
		funcs = append(funcs, typ.Funcs...)
		values = slices.Concat(values, typ.Consts, typ.Vars)
		for _, m := range typ.Methods {
			if !slices.Contains(selfEvident, m.Name) {
				all[typ.Name+"."+m.Name] = m.Doc
			}
		}
	}
	for _, f := range funcs {
		all[f.Name] = f.Doc
	}
	for _, v := range values {
		for _, spec := range v.Decl.Specs {
			s := spec.(*ast.ValueSpec)
			for _, name := range s.Names {
				if name.IsExported() {
					all[name.Name] = v.Doc + s.Doc.Text() + s.Comment.Text()
				}
			}
		}
	}
	return all
}

// selfEvident are the methods of interfaces everybody knows.
var selfEvident = []string{"Error", "String"}

// TestAPIShowsOnlyWhatItMeansTo finds types of internal packages and of other
// modules in the API of the root.
func TestAPIShowsOnlyWhatItMeansTo(t *testing.T) {
	t.Parallel()
	a := loadAPI(t, ".")
	used := make(map[string]bool)
	for where, paths := range a.foreign() {
		for _, p := range paths {
			internal := strings.HasPrefix(p, ourModule+"/internal/")
			_, allowed := apiTypes[p]
			_, alias := apiAliases[where]
			switch {
			case internal && alias:
				used[where] = true
			case internal:
				t.Errorf("%s shows a type of %s", where, p)
			case !allowed:
				t.Errorf("%s shows a type of %s: enter it in apiTypes with a reason, or do without", where, p)
			default:
				used[p] = true
			}
		}
	}
	for _, key := range slices.Concat(slices.Collect(maps.Keys(apiTypes)), slices.Collect(maps.Keys(apiAliases))) {
		if !used[key] {
			t.Errorf("%s is no longer in the API: remove the entry", key)
		}
	}
}

// foreign returns, by exported name, the packages outside the standard library
// whose types its declaration shows.
func (a api) foreign() map[string][]string {
	all := make(map[string][]string)
	note := func(where string, n ast.Node) {
		ast.Inspect(n, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if pkg, ok := sel.X.(*ast.Ident); ok {
					all[where] = append(all[where], outside([]string{a.imports[pkg.Name]})...)
					all[where] = append(all[where], internals(a.imports[pkg.Name])...)
				}
			}
			return true
		})
	}
	funcs := slices.Clone(a.doc.Funcs)
	for _, typ := range a.doc.Types {
		note(typ.Name, typ.Decl)
		funcs = slices.Concat(funcs, typ.Funcs, typ.Methods)
	}
	for _, f := range funcs {
		note(f.Name, f.Decl.Type)
	}
	for _, v := range slices.Concat(a.doc.Consts, a.doc.Vars) {
		note(strings.Join(v.Names, ", "), v.Decl)
	}
	return all
}

// internals returns p if it is another package of ours.
func internals(p string) []string {
	if own, ours := inHouse(p); ours && own != "" {
		return []string{p}
	}
	return nil
}
