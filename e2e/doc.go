// Package e2e tests pages in a real browser: the runtime against a server that the tests
// play (fake_test.go), and the examples as child processes that are really killed.
//
// It is a module of its own, so that users of jitney don't get a browser's driver into
// their go.sum. Chromium is needed (apt-get install chromium); without it the tests are
// skipped, and with CI=true they fail. JITNEY_CHROMIUM names another executable. Pictures
// of pages, and of tests that failed, are in shots/.
package e2e
