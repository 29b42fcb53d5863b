package sluicehttp

import (
	"html/template"
	"sync"
)

// templates are parsed when somebody looks first.
var templates = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("").Funcs(template.FuncMap{"shown": shown, "words": words}).ParseFS(files, "assets/*.tmpl"))
})
