module github.com/jitney-go/jitney/examples/filebus

go 1.26.0

replace github.com/jitney-go/jitney => ../..

require (
	github.com/jitney-go/jitney v0.0.0-00010101000000-000000000000
	github.com/stretchr/testify v1.12.1
)

require go.yaml.in/yaml/v3 v3.0.5 // indirect
