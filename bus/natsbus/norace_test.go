//go:build !race

package natsbus_test

const underRace = false
