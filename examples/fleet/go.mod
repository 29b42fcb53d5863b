module github.com/sluice-go/sluice/examples/fleet

go 1.26.0

replace (
	github.com/sluice-go/sluice => ../..
	github.com/sluice-go/sluice/contrib/redis => ../../contrib/redis
)

require (
	github.com/redis/rueidis v1.0.79
	github.com/sluice-go/sluice v0.0.0-00010101000000-000000000000
	github.com/sluice-go/sluice/contrib/redis v0.0.0-00010101000000-000000000000
	github.com/stretchr/testify v1.12.1
)

require (
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/sync v0.25.0 // indirect
	golang.org/x/sys v0.47.0 // indirect
	golang.org/x/time v0.16.0 // indirect
)
