module github.com/sluice-go/sluice/internal/verify

go 1.26.0

replace github.com/sluice-go/sluice => ../..

require (
	github.com/sluice-go/sluice v0.0.0-00010101000000-000000000000
	pgregory.net/rapid v1.3.0
)

require (
	github.com/anishathalye/porcupine v1.3.1
	golang.org/x/time v0.16.0
)

require golang.org/x/sync v0.25.0 // indirect
