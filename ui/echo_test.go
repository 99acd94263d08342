package ui_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"

	"github.com/jitney-go/jitney/ui"
)

func TestContext_visitorIsTheBrowser(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			c.View(func() g.Node { return h.P(g.Text(c.Visitor())) })
		})
	})
	ann, bob := s.browser(), s.browser()
	first := ann.open("/").view()
	require.Regexp(t, `^<p>[\w-]{16}</p>$`, first)
	require.Equal(t, first, ann.open("/").view(), "another tab, and after a reload")
	require.NotEqual(t, first, bob.open("/").view())
}

func TestEcho_saysToTheBrowserWhatToShow(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			text := c.Signal("")
			c.View(func() g.Node {
				return ui.Echo("log", h.Li(h.B(ui.EchoOf(text)), ui.LocalTime(time.Unix(0, 0)), h.I(ui.EchoIf("sending")),
					h.Button(ui.EchoRetry()), h.Button(ui.EchoEdit()), ui.Made("x")))
			})
		})
	})
	require.Equal(t, `<template data-echo="log"><li data-made="x"><b data-echo-of="s1"></b>`+
		`<time datetime="1970-01-01T00:00:00Z" data-local>00:00 UTC</time><i data-echo-if="sending"></i>`+
		`<button data-echo-do="retry"></button><button data-echo-do="edit"></button></li></template>`, strings.TrimSpace(s.browser().open("/").view()))
}
